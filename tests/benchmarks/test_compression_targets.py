"""The benchmark of target_bytes: payloads of every size, counted as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.compression import targets
from codec.chunk import verified
from codec.encoding import Manner, compress
from codec.model import FILE
from models.bundle import SHIPPED


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    def images(bundle: str, count: int) -> np.ndarray:
        return load_file(SHIPPED / bundle / "golden.safetensors")["levels"][:count]

    monkeypatch.setattr(targets, "BUNDLES", ("mnist",))
    monkeypatch.setattr(targets, "SIZES", (1, 2))
    monkeypatch.setattr(targets, "TARGETS", 4)
    monkeypatch.setattr(targets, "test_images", images)


def test_every_payload_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert targets.main(["--images", "2", "--out", str(tmp_path / "targets.json")]) == 0
    alone, both = json.loads((tmp_path / "targets.json").read_text())["rows"]
    assert [alone["payloads"], both["payloads"]] == [8, 4]
    for row in (alone, both):
        assert row["over"] == 0
        assert 0.9 < row["worst_used"] <= row["mean_used"] <= 1
    assert capsys.readouterr().out.count("\n| mnist |") == 2


def test_a_payload_far_from_its_target_is_not_close(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = verified(SHIPPED / "mnist" / FILE)
    images = targets.test_images("mnist", 1)

    def halved(images: np.ndarray, codec: object, manner: Manner = Manner()) -> bytes:  # noqa: B008
        if manner.target_bytes is not None:
            manner = manner._replace(target_bytes=max(manner.target_bytes // 2, 27))
        return compress(images, codec, manner)  # type: ignore[arg-type]

    monkeypatch.setattr(targets, "compress", halved)
    row = targets.measured(images, codec, 1)
    assert row["close"] < 0.5
    assert row["worst_used"] < 0.6
