"""Fault runs of the real service: each breaks something, counts what came of it, and holds it to a promise.

    python -m benchmarks.faults [name …]

starts `python -m app` as a process of its own for every fault named, or for all of them, and writes a row for
each into results.json; the exit status is 1 where a promise was broken. A new fault is a module with a
`run(setup)` that returns rows, and a line in `__main__.FAULTS`.
"""
