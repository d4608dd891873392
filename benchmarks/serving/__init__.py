"""The serving benchmark: ours, its peers and the bare torch loop, on one bundle and the same threads.

    python -m benchmarks.serving

starts every contender of `contenders.py` as a process of its own, checks each one's answers to every
workload of `workloads.py` against the bundle run directly in torch, loads them in turn, round by round, with
`wrk`, and writes results.json, results.md and results.png.

A new peer is a file like those in `peers` and a `Server` in `contenders.py`; a new workload is a
`Workload`, its path in each `Server`, and a place in `contenders.COMPARISONS`.
"""
