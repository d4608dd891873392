"""A parser that blames the service for an input."""

from app.errors import Kind, Problem
from fuzzing.expected import accepted


def check(data: bytes) -> None:
    accepted(lambda: fail(data))


def fail(data: bytes) -> None:
    if len(data) > 2:
        raise Problem(Kind.INTERNAL, "planted")
