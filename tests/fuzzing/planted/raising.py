"""A parser that raises what nobody documented."""

from app.negotiation import parse_images
from fuzzing.expected import LIMITS, accepted


def check(data: bytes) -> None:
    accepted(lambda: parse_images(data, "application/x-npy", LIMITS))
    if len(data) > 2 and data[0] > 0x7F:
        raise RecursionError("planted")
