"""A parser that never ends."""


def check(data: bytes) -> None:
    while len(data) > 2:
        pass
