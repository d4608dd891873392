"""Every parser that a stranger's bytes reach, fed bytes that nobody would send, guided by what they reach.

    corpora/NAME ─► mutations of libFuzzer, sums put right ─► targets.NAME.check ─► the service's own function
                                                                 │ its documented refusal: the next input
                                                                 └ anything else, a hang, much memory: a fault

A target is a module of `targets`. `python -m fuzzing` runs them all at once (`make fuzz-hour` for an hour,
into results.json), `python -m fuzzing.corpora` makes and tends the corpora, `python -m fuzzing.replay` tries
files without libFuzzer. An input that was once a fault is kept in `faults/NAME`, once it is mended; the test
suite replays those and the corpora, and runs every target for a minute.
"""
