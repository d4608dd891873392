"""SIGTERM ends a command as an exception does."""

import os
import signal

import pytest

from models.leaving import leave_on_sigterm


def test_sigterm_ends_the_program_with_its_number() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        leave_on_sigterm()
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
