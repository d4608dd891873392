"""FORMAT.md is enough: a decoder written from it alone reads what the codec writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.model import FILE, CodecModel
from codec.payload import Effort, compress
from tests.codec.reference import Reference
from tests.codecs import SHAPES, pictures


@pytest.mark.parametrize(
    ("kind", "effort", "count"),
    [("grey", "best", 1), ("grey", "best", 5), ("rgb", "best", 2), ("grey", "fast", 18), ("rgb", "fast", 2)],
)
def test_a_decoder_written_from_the_specification_reads_payloads(
    kind: str, effort: Effort, count: int, grey: CodecModel, rgb: CodecModel, codecs_folder: Path
) -> None:
    images = pictures(SHAPES[kind], count, seed=3)
    payload = compress(images, grey if kind == "grey" else rgb, effort=effort)
    np.testing.assert_array_equal(Reference(codecs_folder / f"{kind}-{FILE}").decode(payload), images)
