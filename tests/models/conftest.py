from typing import Any

import pytest

from models.config import InputConfig, LikelihoodConfig, VAEConfig


def vae_config(shape: tuple[int, int, int] = (1, 8, 8), **changes: Any) -> VAEConfig:
    values: dict[str, Any] = {
        "family": "convolutional",
        "latent_dim": 4,
        "channels": (8, 8),
        "blocks": (1, 1),
        "likelihood": LikelihoodConfig(name="logistic-mixture", components=2),
        "input": InputConfig(shape=shape),
    }
    return VAEConfig(**{**values, **changes})


@pytest.fixture
def small_config() -> VAEConfig:
    return vae_config()
