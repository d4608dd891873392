"""Shapes in the types are checked at run time here, and only here."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

SHAPED = ("images", "likelihoods", "noise", "objectives", "priors", "vae")
install_import_hook([f"models.{module}" for module in SHAPED], "beartype.beartype")

import app.engine  # noqa: E402
from app.operations import Operation, Outputs  # noqa: E402
from models.vae import VAE  # noqa: E402

settings.register_profile("fuzz", max_examples=20_000, deadline=None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True, scope="session")
def _unchecked_while_recorded() -> Iterator[None]:
    # What is recorded are the checks too, whose sizes would hold for every batch.
    record = app.engine.recorded

    def unchecked(model: VAE, operation: Operation) -> Callable[[torch.Tensor], Outputs]:
        config.update("jaxtyping_disable", True)
        try:
            return record(model, operation)
        finally:
            config.update("jaxtyping_disable", False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.engine, "recorded", unchecked)
        yield


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
