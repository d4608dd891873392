"""Measure the lossy modes against lossy image formats: how many bytes for how much error.

test set ─► settings of contenders ─► a file for each image, one of all ─► PSNR, SSIM ─► JSON, table, plot
"""
