"""Shapes in the types are checked at run time here, and only here."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

SHAPED = ("images", "likelihoods", "noise", "objectives", "priors", "vae")
install_import_hook([f"models.{module}" for module in SHAPED], "beartype.beartype")
settings.register_profile("fuzz", max_examples=20_000, deadline=None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
