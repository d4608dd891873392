import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from models.bundle import (
    METRICS,
    REQUIRED,
    SHIPPED,
    BundleError,
    bundle_path,
    change_bundle,
    golden_faults,
    golden_outputs,
    load_bundle,
)
from models.bundle_files import SUMS, BundleFiles
from models.config import VAEConfig
from models.vae import VAE
from tests.bundles import save_small_bundle
from tests.disks import full_after


@pytest.fixture
def bundle(tmp_path: Path, small_config: VAEConfig) -> Path:
    return save_small_bundle(tmp_path / "small", small_config)


def faults_of(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    return str(caught.value)


def reseal(path: Path) -> None:
    """Make SHA256SUMS agree with the files, so that only the fault under test is left."""
    names = [name for name in (*REQUIRED, "codec.safetensors") if (path / name).exists()]
    sums = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (path / SUMS).write_text("".join(sums))


def test_a_saved_bundle_loads_with_the_same_outputs(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    golden = load_file(bundle / "golden.safetensors")
    outputs = golden_outputs(loaded.model, golden["levels"])
    assert loaded.id == "small"
    assert not loaded.model.training
    assert loaded.digest == hashlib.sha256((bundle / SUMS).read_bytes()).hexdigest()
    np.testing.assert_array_equal(outputs["mu"], golden["mu"])


def test_nothing_is_left_beside_a_saved_bundle(bundle: Path) -> None:
    assert [entry.name for entry in bundle.parent.iterdir()] == ["small"]
    assert {entry.name for entry in bundle.iterdir()} == {*REQUIRED, SUMS}


def test_an_existing_folder_is_not_overwritten(bundle: Path, small_config: VAEConfig) -> None:
    with pytest.raises(FileExistsError, match="small exists"):
        save_small_bundle(bundle, small_config)


def test_a_model_with_nan_weights_is_not_saved(tmp_path: Path, small_config: VAEConfig) -> None:
    def poison(model: VAE) -> None:
        torch.nn.init.constant_(model.encoder[-1].bias, float("nan"))

    with pytest.raises(BundleError, match=r"encoder\.7\.bias: 8 of 8 values are NaN or infinite") as caught:
        save_small_bundle(tmp_path / "small", small_config, change=poison)
    assert str(caught.value).startswith(f"bundle {tmp_path / 'small'}: 4 fault(s)")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_the_file_and_leaves_nothing(
    tmp_path: Path, small_config: VAEConfig
) -> None:
    with full_after(4096), pytest.raises(OSError, match=r"File too large: '.*model\.safetensors'"):
        save_small_bundle(tmp_path / "small", small_config)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_a_bundle_that_is_changed_as_it_was(bundle: Path) -> None:
    before = load_bundle(bundle).digest
    message = r"^[^']*small cannot be copied: \[Errno 27\] File too large: '[^']*'( -> '[^']*')?$"
    with full_after(512), pytest.raises(OSError, match=message):
        change_bundle(bundle, {METRICS: bytes(1024)})
    assert load_bundle(bundle).digest == before
    assert [entry.name for entry in bundle.parent.iterdir()] == ["small"]


def test_figures_that_json_cannot_hold_are_not_saved(tmp_path: Path, small_config: VAEConfig) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_small_bundle(tmp_path / "small", small_config, training={"loss": float("nan")})


def test_the_model_that_is_saved_stays_as_it_is(tmp_path: Path, small_config: VAEConfig) -> None:
    saved: list[VAE] = []
    save_small_bundle(tmp_path / "small", small_config, change=saved.append)
    assert saved[0].training


def test_what_is_added_beside_the_files_is_there_with_them_or_not_at_all(
    tmp_path: Path, small_config: VAEConfig
) -> None:
    def write(folder: Path) -> None:
        assert not (tmp_path / "small").exists()
        (folder / "notes.txt").write_text("beside")

    save_small_bundle(tmp_path / "small", small_config, add=write)
    assert {entry.name for entry in (tmp_path / "small").iterdir()} == {*REQUIRED, SUMS, "notes.txt"}

    def break_off(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_small_bundle(tmp_path / "other", small_config, add=break_off)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("name", [*REQUIRED, SUMS])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{name}: missing" in faults_of(bundle)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_flipped_bit_in_any_file_is_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    assert f"{name}: SHA-256 is" in faults_of(bundle)


@pytest.mark.parametrize("name", [n for n in REQUIRED if n.endswith((".json", ".safetensors"))])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe garbage", b"\x10\0\0\0\0\0\0\0{"])
def test_an_unreadable_file_is_named(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    reseal(bundle)
    assert f"{name}: not " in faults_of(bundle)


@pytest.mark.parametrize("name", [n for n in REQUIRED if n.endswith(".json")])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"null", "document: Input should be a valid dictionary"),
        (b"[" * 100_000, "not JSON: maximum recursion depth exceeded"),
        (b"[" * 900 + b"]" * 900, "document: Input should be a valid dictionary"),
    ],
    ids=["null", "nested without end", "nested"],
)
def test_json_that_is_no_object_is_named(bundle: Path, name: str, content: bytes, fault: str) -> None:
    (bundle / name).write_bytes(content)
    reseal(bundle)
    assert f"{name}: {fault}" in faults_of(bundle)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("8", "n: Input should be a valid integer, got '8'"),
        (8.0, "n: Input should be a valid integer, got 8.0"),
        (0, "n: Input should be greater than 0, got 0"),
    ],
)
def test_a_figure_of_another_type_is_named(bundle: Path, value: object, fault: str) -> None:
    metrics = json.loads((bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps({**metrics, "n": value}))
    reseal(bundle)
    assert f"metrics.json: {fault}" in faults_of(bundle)


def test_a_figure_that_is_no_number_is_named(bundle: Path) -> None:
    metrics = json.loads((bundle / "metrics.json").read_text())
    metrics["nll"]["mean"] = float("nan")
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    reseal(bundle)
    assert "metrics.json: nll.mean: Input should be a finite number, got nan" in faults_of(bundle)


def test_a_folder_in_place_of_a_file_is_named(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    (bundle / "README.md").mkdir()
    assert "README.md: cannot be read: Is a directory" in faults_of(bundle)


def test_all_faults_are_named_at_once(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    (bundle / "metrics.json").write_text("{}")
    faults = faults_of(bundle)
    assert "README.md: missing" in faults
    assert "metrics.json: SHA-256" in faults
    assert "metrics.json: elbo: Field required" in faults


def test_damaged_sums_are_named_line_by_line(bundle: Path) -> None:
    sums = (bundle / SUMS).read_text()
    (bundle / SUMS).write_text(sums + "nonsense\n" + "0" * 64 + "  extra.bin\n")
    faults = faults_of(bundle)
    assert "SHA256SUMS: line 8 is not '<sha256>  <name>': 'nonsense'" in faults
    assert "extra.bin: listed in SHA256SUMS but not part of the bundle" in faults


@pytest.mark.parametrize("end", [b"", b"\x0b", b"\x1c", b"\r\n"])
def test_sums_whose_last_line_ends_otherwise_are_damaged(bundle: Path, end: bytes) -> None:
    sums = (bundle / SUMS).read_bytes()
    (bundle / SUMS).write_bytes(sums.removesuffix(b"\n") + end)
    assert "SHA256SUMS" in faults_of(bundle)


def test_every_single_bit_flip_of_the_sums_is_a_fault(bundle: Path) -> None:
    sums = (bundle / SUMS).read_bytes()
    for bit in range(8 * len(sums)):
        changed = bytearray(sums)
        changed[bit // 8] ^= 1 << bit % 8
        (bundle / SUMS).write_bytes(changed)
        files = BundleFiles(bundle, REQUIRED, ())
        assert files.faults, bit


def test_an_unknown_key_and_a_future_version_in_the_config_are_named(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "format_version": 2, "depth": 3}))
    reseal(bundle)
    faults = faults_of(bundle)
    assert "config.json: format_version: Input should be 1, got 2" in faults
    assert "config.json: depth: Extra inputs are not permitted" in faults


Arrays = dict[str, np.ndarray]


def drop(arrays: Arrays, name: str) -> None:
    del arrays[name]


def shorten(arrays: Arrays, *names: str) -> None:
    for name in names:
        arrays[name] = arrays[name][:0]


def replace(arrays: Arrays, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays[name] = np.ascontiguousarray(change(arrays[name]))


@pytest.mark.parametrize(
    ("file", "damage", "fault"),
    [
        ("model", lambda a: drop(a, "encoder.7.bias"), "encoder.7.bias: missing"),
        ("model", lambda a: a.update(ghost=np.zeros(1)), "ghost: unexpected"),
        ("model", lambda a: replace(a, "encoder.7.bias", lambda v: v[:3]), "float32 3, expected float32 8"),
        ("model", lambda a: replace(a, "encoder.7.bias", np.float64), "float64 8, expected float32 8"),
        (
            "model",
            lambda a: replace(a, "encoder.7.bias", lambda v: v * np.nan),
            "8 of 8 values are NaN or infinite",
        ),
        ("model", lambda a: replace(a, "encoder.7.bias", lambda v: v + 0.01), "mu differs by 1.00e-02"),
        ("model", lambda a: a.clear(), "encoder.7.bias: missing"),
        ("latents", lambda a: a.clear(), "weights: missing"),
        ("golden", lambda a: a.clear(), "levels: missing"),
        ("latents", lambda a: shorten(a, "weights", "means", "cholesky"), "float32 0, expected float32 1"),
        ("latents", lambda a: replace(a, "weights", lambda v: -v), "weights: expected none below 0"),
        ("latents", lambda a: replace(a, "weights", lambda v: 0 * v), "weights: expected none below 0"),
        ("golden", lambda a: shorten(a, *a), "uint8 0×1×8×8, expected uint8 1×1×8×8"),
        ("latents", lambda a: drop(a, "mean"), "mean: missing"),
        ("latents", lambda a: drop(a, "weights"), "weights: missing"),
        ("latents", lambda a: replace(a, "active", np.uint8), "uint8 4, expected bool 4"),
        ("latents", lambda a: replace(a, "means", lambda v: v[:, :2]), "float32 2×2, expected float32 2×4"),
        ("golden", lambda a: drop(a, "levels"), "levels: missing"),
        (
            "golden",
            lambda a: replace(a, "levels", lambda v: v[0]),
            "uint8 1×8×8, expected uint8 1×1×8×8",
        ),
        ("golden", lambda a: replace(a, "x_hat", lambda v: v + 0.1), "x_hat differs by 1.00e-01"),
    ],
)
def test_a_fault_in_the_arrays_is_named(
    bundle: Path, file: str, damage: Callable[[Arrays], None], fault: str
) -> None:
    arrays = load_file(bundle / f"{file}.safetensors")
    damage(arrays)
    save_file(arrays, bundle / f"{file}.safetensors")
    reseal(bundle)
    assert fault in faults_of(bundle)


def test_an_optional_codec_file_is_covered_by_the_sums(bundle: Path) -> None:
    (bundle / "codec.safetensors").write_bytes(b"tables")
    assert "codec.safetensors: SHA-256 is" in faults_of(bundle)
    reseal(bundle)
    assert load_bundle(bundle).id == "small"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "there is no such folder" in faults_of(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path) -> None:
    assert "File name too long" in faults_of(tmp_path / ("n" * 300))


def test_golden_outputs_that_are_nan_are_faults(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    golden = load_file(bundle / "golden.safetensors")
    golden["mu"][:] = np.nan
    assert golden_faults(loaded.model, golden) == [
        "golden.safetensors: mu differs by nan, the limit is 1.00e-04",
    ]


def test_a_name_is_a_shipped_bundle_and_a_slash_makes_it_a_path() -> None:
    assert bundle_path("mnist") == SHIPPED / "mnist"
    assert bundle_path("./mnist") == Path("mnist")


def test_a_file_is_put_into_a_bundle_and_the_rest_stays(bundle: Path) -> None:
    before = {
        path.name: path.read_bytes() for path in bundle.iterdir() if path.name not in ("README.md", SUMS)
    }
    change_bundle(bundle, {"README.md": b"another card", "codec.safetensors": b"a codec"})
    load_bundle(bundle)
    after = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert after == before | {
        "README.md": b"another card",
        "codec.safetensors": b"a codec",
        SUMS: (bundle / SUMS).read_bytes(),
    }
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_change_that_breaks_a_bundle_is_not_made(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(BundleError, match=rf"^bundle {bundle}: 1 fault\(s\)"):
        change_bundle(bundle, {"metrics.json": b"{"})
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize("when", ["at the first rename", "after it", "at the second"])
def test_a_change_that_is_interrupted_leaves_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "changed" or when == "at the first rename":
            raise KeyboardInterrupt
        renamed = rename(self, target)
        if target.name == "old" and when == "after it":
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        change_bundle(bundle, {"README.md": b"another card"})
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


@pytest.mark.parametrize(
    ("percents", "values", "fault"),
    [
        ([0, 100], [1], "2 percents, but 1 values"),
        ([], [], "percents must go from 0 to 100"),
        ([1, 100], [1, 2], "percents must go from 0 to 100"),
        ([0, 99], [1, 2], "percents must go from 0 to 100"),
        ([0, 60, 50, 100], [1, 2, 3, 4], "percents must rise"),
        ([0, 50, 50, 100], [1, 2, 3, 4], "percents must rise"),
        ([0, 50, 100], [1, 3, 2], "values must not fall"),
    ],
)
def test_quantiles_that_are_none_are_named(
    bundle: Path, percents: list[int], values: list[int], fault: str
) -> None:
    metrics = json.loads((bundle / METRICS).read_text())
    metrics["bits_per_dim_quantiles"] = {"percents": percents, "values": values}
    (bundle / METRICS).write_text(json.dumps(metrics))
    reseal(bundle)
    assert f"metrics.json: bits_per_dim_quantiles: Value error, {fault}" in faults_of(bundle)


def test_a_bundle_from_before_there_were_quantiles_loads(bundle: Path) -> None:
    metrics = json.loads((bundle / METRICS).read_text())
    del metrics["bits_per_dim_quantiles"]
    (bundle / METRICS).write_text(json.dumps(metrics))
    reseal(bundle)
    assert load_bundle(bundle).metrics.bits_per_dim_quantiles is None
