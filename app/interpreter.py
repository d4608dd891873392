"""The interpreter's lock, which the event loop's thread and the engine's take in turns.

A thread that wants the lock asks for it after the switch interval, and begins to count anew whenever the one
that has it lets go of it for a moment. The event loop does that at every event: while it is busy, an engine
whose batch has ended would come by the lock milliseconds later, with the device idle meanwhile.
"""

from __future__ import annotations

import gc
import sys
import time

SWITCH_SECONDS = 0.0005  # with less, the lock goes back and forth while a batch is prepared
PROMPT_SECONDS = 0.00005  # less than the event loop holds the lock at once, as a rule
LONG_SECONDS = 0.003  # of a block, after which the next one has the lock back soon
# So many objects that may refer to each other, until one looks at the new ones; after ten times that at those
# that stayed; after twenty times that, or later, at all. A request leaves none that only looking finds, and a
# thousand that wait would be looked at each time.
GARBAGE_THRESHOLDS = (10_000, 10, 20)


def tune_interpreter() -> None:
    """Keep the event loop and the engine's thread from waiting for each other; call it once all is loaded.

    No garbage is looked for in what is loaded, which would stop the process for a tenth of a second, and
    seldom in the rest. A thread that wants the interpreter's lock asks for it after SWITCH_SECONDS, but for
    what PromptReturn says.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)


class PromptReturn:
    """A block that computes, mostly without the interpreter's lock, and has it back soon if it computes long.

    How long is told from the block before, by the thread's own time: it may have waited for the lock itself.
    What is short had better wait, while more requests come for the next batch: that takes fewer turns.
    """

    def __init__(self) -> None:
        self._is_long = False
        self._started = 0.0

    def __enter__(self) -> None:
        if self._is_long:
            sys.setswitchinterval(PROMPT_SECONDS)
        self._started = time.thread_time()

    def __exit__(self, *_: object) -> None:
        if self._is_long:
            sys.setswitchinterval(SWITCH_SECONDS)
        self._is_long = time.thread_time() - self._started > LONG_SECONDS
