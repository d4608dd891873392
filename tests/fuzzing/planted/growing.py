"""A parser that allocates what an input declares."""

KEPT = []


def check(data: bytes) -> None:
    if len(data) > 2:
        KEPT.append(b"\1" * (1 << 29))
