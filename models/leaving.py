"""How a command leaves that is told to stop."""

import signal
import sys
from types import FrameType


def leave_on_sigterm() -> None:
    """Have SIGTERM end the program as an exception does, so that what it was writing is tidied away."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
