"""The model card: a bundle's README.md with the YAML header that model hubs read."""

from __future__ import annotations

from models.bundle import Estimate, Metrics
from models.vae import VAE
from training.config import RunConfig
from training.datasets import Dataset

TEMPLATE = """\
---
license: {license}
library_name: vaeserve
pipeline_tag: unconditional-image-generation
tags: [vae, variational-autoencoder, {data_format}]
---

# {id}

{description}

| | |
| --- | --- |
| images | {channels}×{height}×{width}, {levels} levels |
| network | {family}, channels {widths}, {parameters:,} parameters |
| latents | {latent_dim}, of which {active_dims} active (variance of mu over 0.01) |
| likelihood | {likelihood} |
| trained on | {train_images:,} images, {epochs:g} epochs |

Figures on {n:,} test images, seed {seed}, ± one standard error. {likelihood_note}

| figure | nats an image | bits/dim |
| --- | --- | --- |
| −ELBO | {negative_elbo} | {bits_per_dim} |
| nll, K = {nll_samples}, {nll_n:,} images | {nll} | {nll_bits_per_dim} |
| KL | {kl} | |
| distortion | {distortion} | |
{linear_row}
Remake it in a clone of vaeserve, with the images at DATA (`make data` fetches the public sets) and this
bundle's `training.json`, which also names the commit, the versions and the data's digest it was trained with:

```console
$ make .venv/dev
$ .venv/bin/python -m training train training.json --data DATA
$ .venv/bin/python -m training export training.json --data DATA --to FOLDER
```

![reconstructions](plots/reconstructions.png)
![samples](plots/samples-aggregated.png)
![traversals](plots/traversals.png)
![latent means](plots/latent-means.png)
![curves](plots/curves.png)

The weights are exponential averages. Encode gives mu and logvar of a Gaussian q(z given x); the prior for
sampling is the standard normal, or a Gaussian mixture fitted to q(z given x) over the training images.
Images of another kind than the training data get encodings and scores without meaning.
"""


def model_card(config: RunConfig, model: VAE, metrics: Metrics, dataset: Dataset, epochs: float) -> str:
    """Return the text of a bundle's README.md; `epochs` are those trained so far."""
    channels, height, width = dataset.shape
    network = model.config
    return TEMPLATE.format(
        id=config.id,
        description=config.description or "A variational autoencoder.",
        license=config.license,
        data_format=config.data.format,
        channels=channels,
        height=height,
        width=width,
        levels=network.input.levels,
        family=network.family,
        widths=", ".join(map(str, network.channels)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        latent_dim=network.latent_dim,
        active_dims=metrics.active_dims,
        likelihood=_likelihood(model),
        likelihood_note=_likelihood_note(model),
        train_images=len(dataset.train),
        epochs=epochs,
        n=metrics.n,
        seed=metrics.seed,
        negative_elbo=_nats(metrics.elbo, sign=-1),
        bits_per_dim=_bits(metrics.bits_per_dim),
        nll_samples=metrics.nll_samples,
        nll_n=metrics.nll_n,
        nll=_nats(metrics.nll),
        nll_bits_per_dim=_bits(metrics.nll_bits_per_dim),
        kl=_nats(metrics.kl),
        distortion=_nats(metrics.distortion),
        linear_row=_linear_row(metrics),
    )


def _likelihood(model: VAE) -> str:
    likelihood = model.config.likelihood
    suffix = f", {likelihood.components} components" if likelihood.name == "logistic-mixture" else ""
    channels = ", each channel given those before it" if likelihood.conditional else ""
    return f"{likelihood.name}{suffix}, pixels independent given z{channels}"


def _likelihood_note(model: VAE) -> str:
    if model.config.input.levels == 2:
        return "Pixels are binarised at 128: these figures do not compare with those of 8-bit pixels."
    return "Pixels are 8-bit integers with a discrete likelihood."


def _linear_row(metrics: Metrics) -> str:
    if metrics.linear_accuracy is None:
        return ""
    accuracy = f"{metrics.linear_accuracy:.2%}"
    return f"\nA linear classifier on mu, fitted on training images, names {accuracy} of the test images.\n"


def _nats(estimate: Estimate, sign: int = 1) -> str:
    return f"{sign * estimate.mean:.2f} ± {estimate.standard_error:.2f}"


def _bits(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} ± {estimate.standard_error:.4f}"
