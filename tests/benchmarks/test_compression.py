"""The compression benchmark's figures are those of files that were read back."""

from __future__ import annotations

import bz2
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.compression import __main__ as command
from benchmarks.compression.contenders import Contender, cells, contenders, sheet
from benchmarks.compression.measurement import OtherImagesError, measured
from benchmarks.compression.report import PUBLISHED, Measured, summary
from codec.chunk import verified
from codec.encoding import KINDS, Manner, compress
from codec.model import FILE, CodecModel
from models.bundle import SHIPPED
from training.datasets import Dataset

BUNDLE = "mnist"
IMAGES = load_file(SHIPPED / BUNDLE / "golden.safetensors")["levels"]


@pytest.fixture(scope="module")
def codec() -> CodecModel:
    return verified(SHIPPED / BUNDLE / FILE)


@pytest.fixture(scope="module")
def every(codec: CodecModel) -> dict[str, Contender]:
    return {contender.name: contender for contender in contenders(codec)}


@pytest.mark.parametrize("shape", [(1, 5, 3), (3, 4, 6)])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
def test_a_sheet_has_every_image(count: int, shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    laid = sheet(images)
    assert laid.size >= images.size
    np.testing.assert_array_equal(cells(laid, images.shape), images)
    [alone] = images[:1].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(sheet(images[:1]), alone[..., 0] if shape[0] == 1 else alone)


def test_every_contender_gives_images_back(every: dict[str, Contender]) -> None:
    assert len(every) == 13
    colour = np.random.default_rng(0).integers(0, 256, (3, 3, 9, 8), np.uint8)
    for name, contender in every.items():
        for images in (IMAGES[:5], IMAGES[:1]) if "vaeserve" in name else (IMAGES[:5], IMAGES[:1], colour):
            found = contender.unpack(contender.pack(images), images.shape)
            np.testing.assert_array_equal(found, images, err_msg=name)


def test_sizes_are_those_of_the_files(every: dict[str, Contender], codec: CodecModel) -> None:
    test = IMAGES[:5]
    for effort in KINDS:
        ours = measured(every[f"vaeserve, {effort}"], test, rounds=2)
        assert ours.whole_bits_per_dim == 8 * len(compress(test, codec, Manner(effort))) / test.size
        assert ours.single_bytes == np.mean([len(compress(x[None], codec, Manner(effort))) for x in test])
    assert measured(every["bzip2 9"], test, 1).whole_bits_per_dim == (
        8 * len(bz2.compress(test.tobytes())) / test.size
    )


@pytest.mark.parametrize("count", [5, 1])
def test_other_images_are_noticed(every: dict[str, Contender], count: int) -> None:
    png = every["PNG, optimised"]

    def altered(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        found = png.unpack(data, shape)
        return found ^ 1 if shape[0] == count else found

    with pytest.raises(OtherImagesError, match="PNG, optimised: other images came back"):
        measured(replace(png, unpack=altered), IMAGES[:5], rounds=1)


def test_what_takes_long_is_measured_once(
    every: dict[str, Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.compression.measurement.LONG_SECONDS", 0.0)
    packed: list[int] = []

    def pack(images: np.ndarray) -> bytes:
        packed.append(len(images))
        return every["gzip 9"].pack(images)

    measured(replace(every["gzip 9"], pack=pack), IMAGES[:3], rounds=5)
    assert packed == [1, 3, 1, 1, 1]


def test_the_command_writes_figures_a_table_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(IMAGES, IMAGES, None, None, "sha256:golden")
    monkeypatch.setattr(command, "load_dataset", lambda config: dataset)
    monkeypatch.setattr(command, "SHIPPED", tmp_path / "bundles")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / BUNDLE).symlink_to(SHIPPED / BUNDLE)
    assert command.main(["--rounds", "1", "--images", "2", "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / f"{BUNDLE}.json").read_text())
    assert document["command"] == (
        f"python -m benchmarks.compression --rounds 1 --images 2 --out {tmp_path / 'out'}"
    )
    rows = document["rows"]
    assert [row["name"] for row in rows[:2]] == ["vaeserve, best", "vaeserve, fast"]
    shown = capsys.readouterr().out
    assert (tmp_path / "out" / "results.md").read_text() == shown[:-1]
    assert f"| vaeserve, best | {rows[0]['whole_bits_per_dim']:.3f} |" in shown
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
    ours = ["--images", "1", "--only", "vaeserve", "--out", str(tmp_path / "ours"), BUNDLE]
    assert command.main(ours) == 0
    found = json.loads((tmp_path / "ours" / f"{BUNDLE}.json").read_text())["rows"]
    assert [row["name"] for row in found] == ["vaeserve, best", "vaeserve, fast"]


def test_a_bundle_without_a_codec_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["none"])
    assert "bundles without a codec: none; there are " in capsys.readouterr().err


def test_the_table_has_every_bundle_and_what_others_published() -> None:
    row = Measured("gzip 9", 1.2345, 3.0, 20.0, 99.6, 0.1)
    results = {"mnist": [row, replace(row, name="xz")], "cifar10": [replace(row, whole_bits_per_dim=5.0)]}
    head, rule, *lines = summary(results).splitlines()
    assert head == (
        "| | mnist bits/dim | cifar10 bits/dim | mnist bytes | cifar10 bytes | mnist MB/s | cifar10 MB/s |"
    )
    assert rule == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[:2] == [
        "| gzip 9 | 1.234 | 5.000 | 100 | 100 | 3.00, 20 | 3.00, 20 |",
        "| xz | 1.234 |  | 100 |  | 3.00, 20 |  |",
    ]
    assert f"| Bit-Swap, published | {PUBLISHED['mnist']['Bit-Swap']} | 3.82 | | | | |" in lines
    assert f"| BB-ANS, published | {PUBLISHED['mnist']['BB-ANS']} |  | | | | |" in lines
