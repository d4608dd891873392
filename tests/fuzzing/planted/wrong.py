"""Faults planted in what the targets of a whole service call; prints which targets notice theirs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.errors import Problem
from app.inference import InferenceModel
from codec.encoding import Manner, compress
from fuzzing.seeds import seeds_of
from fuzzing.serving import SERVICE
from fuzzing.targets import http, inference, payload


def inverted(images: np.ndarray, model: Any, manner: Manner) -> bytes:
    return compress(255 - images, model, manner)


def of_doubles(model: InferenceModel, *arguments: Any) -> tuple[Any, ...]:
    return (*parsed(model, *arguments)[:2], np.zeros((1, 64)))


parsed = InferenceModel.parsed
WRONG: list[tuple[str, Callable[[bytes], None], object, str, object]] = [
    ("payload, made again", payload.check, payload, "compress", inverted),
    ("payload, decoded", payload.check, payload, "_decoded", lambda opened: np.zeros((1, 1, 1, 1), np.uint8)),
    ("inference, written", inference.check, inference, "bytes_of_tensor", lambda value: b"\0"),
    ("inference, prepared", inference.check, InferenceModel, "parsed", of_doubles),
    ("http", http.check, SERVICE, "statistics", None),
]


def check_all(name: str, check: Callable[[bytes], None]) -> None:
    for data in seeds_of(name):
        check(data)


def main() -> None:
    for told, check, owner, attribute, wrong in WRONG:
        name = told.partition(",")[0]
        check_all(name, check)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, attribute, wrong)
            with pytest.raises((AssertionError, Problem)):
                check_all(name, check)
        print(told)


if __name__ == "__main__":
    main()
