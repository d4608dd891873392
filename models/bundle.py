"""Bundles: a trained VAE as a folder of safetensors and JSON, written whole and verified before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, RootModel, model_validator
from safetensors.numpy import save as dump_safetensors

from models.bundle_files import SUMS, BundleFiles, Layout
from models.config import Strict, VAEConfig
from models.priors import AggregatedPosterior
from models.vae import VAE

SHIPPED = Path(__file__).parent / "bundles"
WEIGHTS, METRICS = "model.safetensors", "metrics.json"
REQUIRED = (
    "config.json",
    WEIGHTS,
    "latents.safetensors",
    METRICS,
    "golden.safetensors",
    "training.json",
    "README.md",
)
OPTIONAL = ("codec.safetensors",)
GOLDEN_TOLERANCE = 1e-4  # of an output's largest magnitude; float32 on other machines stays below 1e-5


class BundleError(Exception):
    """A bundle that cannot be served, with every fault found in it."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        self.path, self.faults = path, faults
        super().__init__("\n  - ".join([f"bundle {path}: {len(faults)} fault(s)", *faults]))


class BundleConfig(VAEConfig):
    """config.json."""

    format_version: Literal[1] = 1


class Estimate(Strict):
    """A mean over test images and its standard error."""

    mean: float
    standard_error: float = Field(ge=0)


class Quantiles(Strict):
    """How a figure is spread over test images: `percents[i]` of them have `values[i]` or less."""

    percents: Annotated[tuple[float, ...], Field(strict=False, description="rising, from 0 to 100")]
    values: Annotated[tuple[float, ...], Field(strict=False, description="rising, or level")]

    @model_validator(mode="after")
    def _rise_together(self) -> Self:
        if len(self.percents) != len(self.values):
            raise ValueError(f"{len(self.percents)} percents, but {len(self.values)} values")
        if self.percents[:1] != (0,) or self.percents[-1:] != (100,):
            raise ValueError("percents must go from 0 to 100")
        if any(after <= before for before, after in pairwise(self.percents)):
            raise ValueError("percents must rise")
        if any(after < before for before, after in pairwise(self.values)):
            raise ValueError("values must not fall")
        return self


class Metrics(Strict):
    """metrics.json: figures on test data, in nats an image unless named bits."""

    n: int = Field(gt=0, description="test images behind elbo, kl and distortion")
    seed: int
    elbo: Estimate
    kl: Estimate
    distortion: Estimate
    bits_per_dim: Estimate = Field(description="of −elbo")
    bits_per_dim_quantiles: Quantiles | None = Field(
        default=None,
        description="of −elbo, image by image; null in bundles that were made before there were any",
    )
    nll: Estimate
    nll_bits_per_dim: Estimate
    nll_samples: int = Field(gt=0, description="K of the IWAE bound")
    nll_n: int = Field(gt=0, description="test images behind nll")
    active_dims: int = Field(ge=0, description="latents whose mu varies by more than 0.01 over the test set")
    linear_accuracy: float | None = Field(description="of a linear classifier on mu; null without labels")


class Provenance(RootModel[dict[str, Any]]):
    """training.json: how the weights came to be, for people; the service does not read it."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, its model in evaluation mode on the CPU."""

    id: str
    path: Path
    digest: str
    config: BundleConfig
    model: VAE
    latents: AggregatedPosterior
    metrics: Metrics


def bundle_path(name: str) -> Path:
    """Return the folder of a shipped bundle's id, or the path itself where `name` has a slash."""
    return Path(name) if "/" in name else SHIPPED / name


def load_bundle(path: Path) -> Bundle:
    """Load and verify a bundle.

    Raises BundleError naming every fault at once: missing files and tensors, unexpected ones, wrong
    digests, dtypes, shapes, NaN or infinite values, invalid JSON, outputs that differ from the golden ones.
    """
    path = path.resolve()
    try:
        is_there = path.is_dir()
    except OSError as error:  # such as one that this user may not look into
        raise BundleError(path, [str(error)]) from error
    if not is_there:
        raise BundleError(path, ["there is no such folder"])
    files = BundleFiles(path, REQUIRED, OPTIONAL)
    config = files.document("config.json", BundleConfig)
    metrics = files.document(METRICS, Metrics)
    files.document("training.json", Provenance)
    weights, latents, golden = (
        files.arrays(f"{name}.safetensors") for name in ("model", "latents", "golden")
    )
    if config is not None:
        with torch.device("meta"):
            model = VAE(config)
        files.check_layout(WEIGHTS, weights, _model_layout(model))
        files.check_layout("latents.safetensors", latents, _latents_layout(config, latents or {}))
        files.check_layout("golden.safetensors", golden, _golden_layout(config, golden or {}))
    if files.faults or not (config and metrics and weights and latents and golden):
        raise BundleError(path, files.faults)
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    model.load_state_dict(state, assign=True)
    if faults := [*_mixture_faults(latents), *golden_faults(model.eval(), golden)]:
        raise BundleError(path, faults)
    return Bundle(path.name, path, files.digest, config, model, AggregatedPosterior(**latents), metrics)


def save_bundle(
    path: Path,
    model: VAE,
    *,
    latents: AggregatedPosterior,
    metrics: Metrics,
    training: Mapping[str, Any],
    card: str,
    golden_levels: np.ndarray,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a bundle to a temporary folder, verify it as the service would, then rename it to `path`.

    `golden_levels` are uint8 (N, C, H, W) images whose outputs are stored. `add` is called with the folder
    before the rename, to put plots and the like beside the files that are served.

    Raises FileExistsError where `path` exists, BundleError where the model is not fit to be served.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another id or remove it first")
    model = deepcopy(model).eval().cpu()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = BundleConfig(**model.config.model_dump())
    content = {
        "config.json": _json(config.model_dump(mode="json")),
        WEIGHTS: _safetensors(weights),
        "latents.safetensors": _safetensors(latents.arrays()),
        METRICS: metrics_file(metrics),
        "golden.safetensors": _safetensors(golden_outputs(model, golden_levels)),
        "training.json": _json(training),
        "README.md": card.encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)
        for name, data in {**content, SUMS: _sums(content)}.items():
            _write_durably(temporary / name, data)
        load_bundle(temporary)
        add(temporary)
        temporary.rename(path)
    except BundleError as error:
        raise BundleError(path, error.faults) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # where it was not renamed


def change_bundle(path: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a bundle, new or in place of old ones; what comes of it is verified first.

    Raises BundleError where the bundle, or what would become of it, is not fit to be served.
    """
    load_bundle(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as workplace:
        changed, old = Path(workplace, "changed"), Path(workplace, "old")
        try:
            shutil.copytree(path, changed)
        except shutil.Error as error:  # which lists every file
            raise OSError(f"{path} cannot be copied: {error.args[0][0][-1]}") from error
        for name, data in files.items():
            _write_durably(changed / name, data)
        _write_durably(changed / SUMS, _sums({n: (changed / n).read_bytes() for n in _parts_in(changed)}))
        try:
            load_bundle(changed)
        except BundleError as error:
            raise BundleError(path, error.faults) from error
        try:
            path.rename(old)
            changed.rename(path)
        except BaseException:
            if not path.exists():  # else the old one would go with the workplace
                old.rename(path)
            raise


def metrics_file(metrics: Metrics) -> bytes:
    """Return the content of metrics.json."""
    return _json(metrics.model_dump(mode="json"))


def _parts_in(folder: Path) -> list[str]:
    return [name for name in (*REQUIRED, *OPTIONAL) if (folder / name).exists()]


def _sums(content: Mapping[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(content.items()))
    return "".join(lines).encode()


def golden_outputs(model: VAE, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Return `levels` with the model's mu, logvar and x_hat (of z = mu) for them."""
    with torch.inference_mode():
        mu, logvar = model.encode(model.normalise(torch.from_numpy(levels)))
        x_hat = model.x_hat(mu)
    return {"levels": levels, "mu": mu.numpy(), "logvar": logvar.numpy(), "x_hat": x_hat.numpy()}


def golden_faults(model: VAE, golden: Mapping[str, np.ndarray]) -> list[str]:
    """Return what differs from the golden outputs by more than the tolerance."""
    actual = golden_outputs(model, golden["levels"])
    faults = []
    for name in ("mu", "logvar", "x_hat"):
        difference = float(np.abs(actual[name] - golden[name]).max())
        limit = GOLDEN_TOLERANCE * max(1.0, float(np.abs(golden[name]).max()))
        if not difference <= limit:
            faults.append(f"golden.safetensors: {name} differs by {difference:.2e}, the limit is {limit:.2e}")
    return faults


def _mixture_faults(latents: Mapping[str, np.ndarray]) -> list[str]:
    weights = latents["weights"]
    if (weights < 0).any() or not weights.any():
        return ["latents.safetensors: weights: expected none below 0, and one above"]
    return []


def _model_layout(model: VAE) -> Layout:
    return {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in model.state_dict().items()
    }


def _latents_layout(config: VAEConfig, arrays: Mapping[str, np.ndarray]) -> Layout:
    d = config.latent_dim
    components = max(1, arrays["weights"].size) if "weights" in arrays else 1
    vector, matrix = ("float32", (d,)), ("float32", (components, d))
    return {
        "mean": vector,
        "std": vector,
        "active": ("bool", (d,)),
        "weights": ("float32", (components,)),
        "means": matrix,
        "cholesky": ("float32", (components, d, d)),
    }


def _golden_layout(config: VAEConfig, arrays: Mapping[str, np.ndarray]) -> Layout:
    n = max(1, len(arrays["levels"])) if "levels" in arrays and arrays["levels"].ndim else 1
    posterior = ("float32", (n, config.latent_dim))
    image = (n, *config.input.shape)
    return {"levels": ("uint8", image), "mu": posterior, "logvar": posterior, "x_hat": ("float32", image)}


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    # The library writes the memory of an array, not its elements: a view would come back scrambled.
    return dump_safetensors({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write_durably(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # writing itself names no file
