"""The bundles in the repository: they load, and their figures are what the files say."""

from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from models.bundle import SHIPPED, load_bundle
from models.objectives import bits_per_dim, bounds
from training.config import read_config
from training.inputs import latent_noise
from training.trainer import training_parts

ROOT = Path(__file__).parents[1]
SHIPPED_IDS = ("fashion-mnist", "mnist", "cifar10")
# −ELBO of the golden images, bits/dim
SIXTEEN_IMAGES = {"fashion-mnist": 2.7116, "mnist": 1.1499, "cifar10": 4.9872}


@pytest.mark.parametrize("id", SHIPPED_IDS)
def test_a_shipped_bundle_is_whole(id: str) -> None:
    bundle = load_bundle(SHIPPED / id)
    assert bundle.metrics.n == 10_000
    assert bundle.metrics.nll_samples == 500
    assert bundle.metrics.nll_n >= 1000
    assert bundle.metrics.active_dims >= 16
    quantiles = bundle.metrics.bits_per_dim_quantiles
    assert quantiles is not None
    least, most = quantiles.values[0], quantiles.values[-1]
    assert least < bundle.metrics.bits_per_dim.mean < most
    assert {path.name for path in (SHIPPED / id / "plots").glob("*.png")} == {
        "curves.png",
        "latent-means.png",
        "reconstructions.png",
        "samples-aggregated.png",
        "samples-standard.png",
        "traversals.png",
    }


@pytest.mark.parametrize("id", SHIPPED_IDS)
def test_a_shipped_bundle_is_what_its_config_trains(id: str) -> None:
    shipped, config = (
        training_parts(read_config(path, data=Path("data")).model_dump_json())
        for path in (SHIPPED / id / "training.json", ROOT / f"training/configs/{id}.toml")
    )
    assert shipped == config


@pytest.mark.parametrize(("id", "bits"), SIXTEEN_IMAGES.items())
def test_a_shipped_bundle_scores_its_first_test_images_as_it_did(id: str, bits: float) -> None:
    bundle = load_bundle(SHIPPED / id)
    levels = torch.from_numpy(load_file(SHIPPED / id / "golden.safetensors")["levels"])
    eps = latent_noise(bundle.model, seed=0, offset=0, count=len(levels))
    with torch.inference_mode():
        elbo = bounds(bundle.model, levels, eps)["elbo"].mean()
    assert -bits_per_dim(elbo, bundle.config.input.shape).item() == pytest.approx(bits, abs=1e-3)
