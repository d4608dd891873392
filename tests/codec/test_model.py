"""codec.safetensors: what is saved comes back, and a broken file is refused with every fault named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from codec.chunk import verified, with_golden
from codec.model import FILE, CodecError, CodecModel, load_codec, save_codec
from tests.codecs import pictures


def parts(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def faults_of(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> list[str]:
    save_file(arrays, path, metadata)
    with pytest.raises(CodecError) as error:
        verified(path)
    assert str(path) in str(error.value)
    return error.value.faults


Saved = tuple[Path, dict[str, np.ndarray], dict[str, str]]


@pytest.fixture
def saved(grey: CodecModel, tmp_path: Path) -> Saved:
    save_codec(tmp_path / FILE, grey)
    return tmp_path / FILE, *parts(tmp_path / FILE)


def test_a_codec_comes_back_from_its_file(codec: CodecModel, tmp_path: Path) -> None:
    save_codec(tmp_path / FILE, codec)
    loaded = verified(tmp_path / FILE)
    assert (loaded.digest, loaded.config) == (codec.digest, codec.config)
    assert len(loaded.prefix) == 4


def test_golden_images_show_other_arithmetic(grey: CodecModel, tmp_path: Path) -> None:
    other = with_golden(grey, pictures(grey.config.shape, 2))
    for name in ("stream", "fast_stream"):
        stream = getattr(other.golden, name).copy()
        longer = np.append(stream, [1, 2]).astype(np.uint8)
        faults_of = {
            f"golden.{name}: the golden images make another stream here": {name: stream[:-2]},
            f"golden.{name}: it makes other images here": {"levels": other.golden.levels[::-1].copy()},
            f"golden.{name}: it cannot be read here: the stream does not end": {name: longer},
        }
        for fault, change in faults_of.items():
            save_codec(tmp_path / FILE, replace(other, golden=other.golden._replace(**change)))
            with pytest.raises(CodecError, match=fault):
                verified(tmp_path / FILE)


def test_a_codec_is_shown_by_its_shape_and_what_payloads_name_it_by(grey: CodecModel) -> None:
    assert repr(grey) == f"<CodecModel 1×8×8 {grey.prefix.hex()}>"


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="No such file"):
        load_codec(tmp_path / FILE)
    (tmp_path / FILE).write_bytes(b"no tensors at all")
    with pytest.raises(CodecError, match="1 fault"):
        load_codec(tmp_path / FILE)


def test_documents_without_end_are_refused(saved: Saved) -> None:
    path, arrays, _ = saved
    assert faults_of(path, arrays, {"config": "[" * 100_000})


def test_a_codec_has_golden_images(saved: Saved) -> None:
    path, arrays, metadata = saved
    arrays["golden.levels"] = arrays["golden.levels"][:0]
    [fault] = faults_of(path, arrays, metadata)
    assert fault == "golden.levels: uint8 0×1×8×8, expected uint8 1×1×8×8"


def test_tensors_that_do_not_fit_the_config_are_all_named(saved: Saved) -> None:
    path, arrays, metadata = saved
    del arrays["encoder.linear.bias"]
    arrays["more"] = np.zeros(1, np.int8)
    arrays["decoder.linear.shift"] = arrays["decoder.linear.shift"].astype(np.int64)
    assert sorted(faults_of(path, arrays, metadata)) == [
        f"decoder.linear.shift: int64 {len(arrays['decoder.linear.shift'])}, expected int32"
        f" {len(arrays['decoder.linear.shift'])}",
        "encoder.linear.bias: missing",
        "more: unexpected",
    ]


@pytest.mark.parametrize("name", ["latents.starts", "golden.levels", "golden.stream"])
def test_a_missing_tensor_of_any_length_is_named(saved: Saved, name: str) -> None:
    path, arrays, metadata = saved
    del arrays[name]
    assert faults_of(path, arrays, metadata) == [f"{name}: missing"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format_version": 2}, "format_version"),
        ({"hidden": 0}, "hidden"),
        ({"unknown": 1}, "unknown"),
        ({"shape": [2, 8, 8]}, "shape"),
        ({"channels": []}, "channels"),
        ({"blocks": [1, 1]}, "blocks"),
    ],
)
def test_a_config_out_of_range_is_refused(saved: Saved, change: dict[str, Any], fault: str) -> None:
    path, arrays, metadata = saved
    document = json.loads(metadata["config"]) | change
    [found] = faults_of(path, arrays, {"config": json.dumps(document)})
    assert fault in found


def test_a_file_without_a_config_is_refused(saved: Saved) -> None:
    path, arrays, _ = saved
    assert len(faults_of(path, arrays, {})) == 1


@pytest.mark.parametrize(
    ("name", "entry", "value", "fault"),
    [
        ("context.offsets", (0, 0), 1, "context.offsets: one is not before the pixel, 2 away or less"),
        ("context.offsets", (0, 1), -3, "context.offsets: one is not before the pixel, 2 away or less"),
        ("context.offsets", (11, 1), 0, "context.offsets: one is not before the pixel, 2 away or less"),
        ("context.first_shift", (0, 0), -1, "context.first_shift: one is outside 0 … 28"),
        ("context.last_bias", (0, 0), 2**31 - 1, "context.last_weight: a sum may reach "),
        ("context.first_bias", (0, 16), 1_800_000_000, "context: a location may reach "),  # the prediction's
        ("encoder.linear.bias", 0, 2**30, "encoder.linear: a sum may reach "),
        ("latents.lowest", 0, -128, "latents.lowest: a value is outside ±127"),
        ("tables.logistic", 0, 1, "tables.logistic: does not rise from 0 to 2^24"),
        # Differences and absolute values of these wrap around.
        ("tables.exponentials", (slice(1, 3),), [-(2**63), 2**62], "tables.exponentials: do not fall"),
        ("tables.logistic", (slice(1, 3),), [2**63 - 1, -(2**63)], "tables.logistic: does not rise"),
        ("latents.starts", 1, -(2**31), "latents.starts: those of dimension 0 do not rise"),
        ("latents.first", 1, -(2**31), "latents.first: does not divide"),
        ("context.offsets", (0, 1), -(2**63), "context.offsets: one is not before the pixel"),
        ("decoder.linear.shift", 0, -(2**31), "decoder.linear: a shift is outside ±24"),
    ],
)
def test_numbers_that_a_coder_cannot_use_are_named(
    saved: Saved, name: str, entry: Any, value: int, fault: str
) -> None:
    path, arrays, metadata = saved
    arrays[name][entry] = value
    assert faults_of(path, arrays, metadata)[0].startswith(fault)
