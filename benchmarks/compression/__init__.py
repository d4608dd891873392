"""Measure the shipped codecs against image formats and general compressors, on the same images.

test set ─► contenders ─► one file of all, a file for each image ─► read back, compared ─► JSON, table, plot
"""
