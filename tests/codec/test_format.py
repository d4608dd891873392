"""FORMAT.md is enough: a decoder written from it alone reads what the codec writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec.model import FILE, CodecModel
from codec.payload import compress
from tests.codec.reference import Reference
from tests.codecs import SHAPES, pictures


@pytest.mark.parametrize(("kind", "count"), [("grey", 1), ("grey", 5), ("rgb", 2)])
def test_a_decoder_written_from_the_specification_reads_payloads(
    kind: str, count: int, grey: CodecModel, rgb: CodecModel, codecs_folder: Path
) -> None:
    images = pictures(SHAPES[kind], count, seed=3)
    payload = compress(images, grey if kind == "grey" else rgb)
    np.testing.assert_array_equal(Reference(codecs_folder / f"{kind}-{FILE}").decode(payload), images)
