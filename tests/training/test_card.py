"""The model card has the header that model hubs read, and the bundle's figures."""

import re
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Estimate, Metrics
from models.vae import VAE
from tests.training.conftest import tiny_dataset, tiny_trainer
from training.__main__ import command_line
from training.card import model_card

METRICS = Metrics(
    n=10_000,
    seed=3,
    elbo=Estimate(mean=-654.321, standard_error=1.234),
    kl=Estimate(mean=54.5, standard_error=0.25),
    distortion=Estimate(mean=599.821, standard_error=1.2),
    bits_per_dim=Estimate(mean=1.20406, standard_error=0.00227),
    nll=Estimate(mean=645.678, standard_error=4.0),
    nll_bits_per_dim=Estimate(mean=1.18816, standard_error=0.0073),
    nll_samples=500,
    nll_n=1000,
    active_dims=3,
    linear_accuracy=0.95678,
)


def card(metrics: Metrics = METRICS, epochs: float = 2.0, **tables: Any) -> str:
    trainer = tiny_trainer(**tables)
    assert isinstance(trainer.model, VAE)
    return model_card(trainer.config, trainer.model, metrics, trainer.dataset, epochs)


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of every table row by its first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return {first: rest for first, *rest in cells}


def test_it_begins_with_the_hubs_header() -> None:
    opening, header, _ = card(license="cc-by-sa-3.0").split("---\n", maxsplit=2)
    assert opening == ""
    assert dict(line.split(": ", maxsplit=1) for line in header.splitlines()) == {
        "license": "cc-by-sa-3.0",
        "library_name": "vaeserve",
        "pipeline_tag": "unconditional-image-generation",
        "tags": "[vae, variational-autoencoder, npz]",
    }


def test_it_says_what_the_run_is() -> None:
    text = card(description="Bright halves.")
    assert "\n# tiny\n\nBright halves.\n" in text


def test_a_run_without_description_is_a_variational_autoencoder() -> None:
    assert "\n# tiny\n\nA variational autoencoder.\n" in card()


def test_it_describes_images_network_and_training() -> None:
    parameters = sum(parameter.numel() for parameter in tiny_trainer().model.parameters())
    assert (
        rows(card()).items()
        >= {
            "images": ["1×8×8, 256 levels"],
            "network": [f"convolutional, channels 8, {parameters:,} parameters"],
            "latents": ["4, of which 3 active (variance of mu over 0.01)"],
            "likelihood": ["logistic-mixture, 2 components, pixels independent given z"],
            "trained on": ["24 images, 2 epochs"],
        }.items()
    )


def test_a_run_exported_before_its_end_tells_the_epochs_it_had() -> None:
    assert rows(card(epochs=1 / 3 + 1))["trained on"] == ["24 images, 1.33333 epochs"]


def test_it_has_every_figure_with_its_standard_error() -> None:
    text = card()
    assert "Figures on 10,000 test images, seed 3, ± one standard error." in text
    assert (
        rows(text).items()
        >= {
            "−ELBO": ["654.32 ± 1.23", "1.2041 ± 0.0023"],
            "nll, K = 500, 1,000 images": ["645.68 ± 4.00", "1.1882 ± 0.0073"],
            "KL": ["54.50 ± 0.25", ""],
            "distortion": ["599.82 ± 1.20", ""],
        }.items()
    )
    assert (
        "\nA linear classifier on mu, fitted on training images, names 95.68% of the test images.\n" in text
    )


def test_without_labels_it_is_silent_about_the_classifier() -> None:
    assert "linear classifier" not in card(METRICS.model_copy(update={"linear_accuracy": None}))


def test_figures_of_8_bit_pixels_are_said_to_be_of_a_discrete_likelihood() -> None:
    assert "standard error. Pixels are 8-bit integers with a discrete likelihood.\n" in card()


def test_figures_of_binarised_pixels_are_said_not_to_compare() -> None:
    text = card(model={"likelihood": {"name": "bernoulli"}})
    assert "Pixels are binarised at 128: these figures do not compare with those of 8-bit pixels." in text
    assert rows(text)["likelihood"] == ["bernoulli, pixels independent given z"]
    assert rows(text)["images"] == ["1×8×8, 2 levels"]


def test_it_says_with_which_commands_to_remake_it() -> None:
    commands = re.findall(r"^\$ \.venv/bin/python -m training (.*)$", card(), re.MULTILINE)
    parsed = [vars(command_line().parse_args(command.split())) for command in commands]
    assert [(found["command"], found["config"], found["data"]) for found in parsed] == [
        ("train", Path("training.json"), Path("DATA")),
        ("export", Path("training.json"), Path("DATA")),
    ]
    assert parsed[1]["to"] == Path("FOLDER")


@pytest.mark.parametrize("text", ["braces {id} stay", "100 % | of it"])
def test_a_description_is_taken_as_it_is(text: str) -> None:
    assert f"\n{text}\n" in card(description=text)


def test_the_data_set_gives_the_number_of_images() -> None:
    trainer = tiny_trainer(tiny_dataset(train=1234))
    assert isinstance(trainer.model, VAE)
    text = model_card(trainer.config, trainer.model, METRICS, trainer.dataset, epochs=1.0)
    assert rows(text)["trained on"] == ["1,234 images, 1 epochs"]
