"""The curves of the distortion benchmark are those of files that were read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.compression.contenders import Contender
from benchmarks.distortion import __main__ as command
from benchmarks.distortion import contenders
from benchmarks.distortion.contenders import Curve, curves
from benchmarks.distortion.measurement import Point, bytes_at, measured, psnr
from benchmarks.distortion.report import PSNRS, table
from codec.chunk import verified
from codec.encoding import Manner, compress
from codec.model import FILE, CodecModel
from models.bundle import SHIPPED

BUNDLE = "mnist"
IMAGES = load_file(SHIPPED / BUNDLE / "golden.safetensors")["levels"]


@pytest.fixture(scope="module")
def codec() -> CodecModel:
    return verified(SHIPPED / BUNDLE / FILE)


@pytest.fixture(scope="module")
def every(codec: CodecModel) -> dict[str, Curve]:
    return {curve.name: curve for curve in curves(codec)}


def point(setting: float, size: float, psnr_db: float) -> Point:
    return Point(setting, size, psnr_db, 0.9, 1.0, psnr_db)


def test_every_contender_loses_less_for_more_bytes(every: dict[str, Curve]) -> None:
    assert len(every) == 7
    for name, curve in every.items():
        ends = [measured(*curve.settings[i], IMAGES[:3]) for i in (0, -1)]
        low, high = sorted(ends, key=lambda end: end.single_bytes)
        assert (low.single_psnr or 99) < (high.single_psnr or 100), name
        assert low.single_ssim < high.single_ssim, name
        assert (low.whole_psnr or 99) < (high.whole_psnr or 100), name
        assert low.whole_bits_per_dim < high.whole_bits_per_dim, name


def test_colour_comes_back_too() -> None:
    rng = np.random.default_rng(0)
    images = np.clip(rng.integers(90, 160, (3, 3, 1, 1)) + rng.integers(-9, 9, (3, 3, 16, 16)), 0, 255)
    images = images.astype(np.uint8)
    for contender in (
        contenders._pillow_format("WebP", format="WEBP", quality=90),
        contenders._pillow_format("AVIF", format="AVIF", quality=90),
        contenders._jpeg_xl(0.5),
    ):
        assert (measured(1, contender, images).single_psnr or 99) > 25


def test_sizes_are_those_of_the_files(every: dict[str, Curve], codec: CodecModel) -> None:
    [(setting, ours)] = [s for s in every["vaeserve, quality"].settings if s[0] == 40]
    found = measured(setting, ours, IMAGES[:4])
    manner = Manner(quality=40)
    assert found.whole_bits_per_dim == 8 * len(compress(IMAGES[:4], codec, manner)) / IMAGES[:4].size
    assert found.single_bytes == np.mean([len(compress(x[None], codec, manner)) for x in IMAGES[:4]])


def test_an_image_that_comes_back_the_same_has_no_error() -> None:
    same = Contender("same", lambda images: images.tobytes(), lambda data, shape: IMAGES[:2][: shape[0]])
    assert measured(0, same, IMAGES[:1]).single_ssim == 1
    assert psnr(IMAGES, IMAGES) is None
    assert psnr(np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)) == 0


def test_bytes_at_a_psnr_lie_between_those_of_two_settings() -> None:
    points = [point(1, 100, 20), point(2, 200, 30)]
    assert bytes_at(points, 25) == 150
    assert bytes_at(points, 19) is None
    assert bytes_at(points, 31) is None
    lossless = Point(3, 999, None, 1.0, 8.0, None)
    assert bytes_at([*points, lossless], 25) == 150
    assert bytes_at([lossless], 25) is None


def test_a_table_has_a_row_for_each_contender() -> None:
    lines = table({"x": {"ours": [point(1, 10, 20), point(2, 30, 30)], "theirs": [point(1, 99, 50)]}})
    [head, _, ours, theirs] = lines.splitlines()
    assert head.startswith("| `x`, bytes at | 20 dB | 22 dB |")
    assert ours.startswith("| ours | 10 | 14 | 18 | 22 | 26 | 30 |  |")
    assert theirs == "| theirs |" + "  |" * len(PSNRS)


def test_the_command_writes_curves_of_every_shipped_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "test_images", lambda bundle, count: IMAGES[:count])
    for name in ("OUR_QUALITIES", "LATENT_QUALITIES", "QUALITIES"):
        monkeypatch.setattr(contenders, name, (20, 40))
    monkeypatch.setattr(contenders, "ERRORS", (2, 16))
    monkeypatch.setattr(contenders, "DISTANCES", (5.0, 1.0))
    monkeypatch.setattr(command, "SHIPPED", tmp_path / "bundles")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / BUNDLE).symlink_to(SHIPPED / BUNDLE)
    assert command.main(["--images", "2", "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["command"].endswith(f"--images 2 --out {tmp_path / 'out'}")
    [[bundle, found]] = document["bundles"].items()
    assert bundle == BUNDLE
    assert [len(points) for points in found.values()] == [2] * 7
    assert (tmp_path / "out" / "results.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
