"""From a finished run to a bundle: metrics, aggregated posterior, plots and model card in one folder."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codec.chunk import verified
from codec.model import FILE, dumped
from models.bundle import METRICS, WEIGHTS, Metrics, change_bundle, load_bundle, metrics_file, save_bundle
from models.priors import AggregatedPosterior
from models.vae import VAE
from training.card import model_card
from training.codec import fit_codec
from training.codec_figures import CodecFigures, codec_figures
from training.config import RunConfig
from training.datasets import Dataset
from training.distributed import Place
from training.environment import environment
from training.errors import RunError
from training.evaluation import evaluate, fit_aggregated_posterior, posterior_means, with_quantiles
from training.inputs import levels_on_device
from training.plots import (
    plot_curves,
    plot_latent_means,
    plot_reconstructions,
    plot_samples,
    plot_traversals,
)
from training.trainer import Trainer

GOLDEN_IMAGES = 16
CODEC_IMAGES = 1000  # of the test set, behind the codec's figure
CODEC_HEADING = "\n## Codec\n"
CODEC_NOTE = """
`codec.safetensors` compresses images of this shape without loss: {images:,} test images as one payload take
{best:.3f} bits/dim, all bytes counted, or {fast:.3f} with `effort=fast`.

| bits/dim | best | fast |
| --- | --- | --- |
| payload | {payload} |
| by the integer networks' own estimate | {integer} |
| by that of the networks in floats that they were made of | {floats} |
"""


def export_run(trainer: Trainer, destination: Path) -> Metrics:
    """Evaluate a run's averaged weights and write them as a bundle folder `destination`.

    Raises RunError for an autoencoder, which has no posterior to serve, and for weights that are not finite;
    FileExistsError where the destination exists; BundleError where the weights are not fit to be served.
    """
    model = trainer.averaged_model.eval()
    if not isinstance(model, VAE):
        raise RunError("an autoencoder has no mu, logvar or prior, so there is nothing to export for serving")
    if destination.exists():
        raise FileExistsError(f"{destination} exists; remove it, or export to another folder with --to")
    metrics = evaluate(model, trainer.dataset, trainer.config)
    latents = fit_aggregated_posterior(model, trainer.dataset, trainer.config)
    save_bundle(
        destination,
        model,
        latents=latents,
        metrics=metrics,
        training=provenance(trainer),
        card=model_card(trainer.config, model, metrics, trainer.dataset, trainer.epoch),
        golden_levels=levels_on_device(model, trainer.dataset.test[:GOLDEN_IMAGES]).cpu().numpy(),
        add=lambda folder: draw_plots(model, trainer, latents, folder / "plots"),
    )
    return metrics


def export_codec(config: RunConfig, dataset: Dataset, place: Place, bundle: Path) -> CodecFigures:
    """Train the codec of a bundle's model, and put it there; return its figures on test images.

    Raises BundleError where there is no such bundle, RunError where the config has no codec or the bundle was
    trained on other data or changes meanwhile, CodecError where the codec cannot be used.
    """
    if config.codec is None:
        raise RunError("the config has no [codec] table")
    model, weights = load_bundle(bundle).model.to(place.device), _digest_of_weights(bundle)
    _training_on(dataset, bundle)
    made_by = environment(place)
    fitted = fit_codec(model, dataset, config.codec, config.seed)
    content = dumped(fitted.codec)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, FILE).write_bytes(content)
        codec = verified(Path(folder, FILE))
    test = dataset.test[:CODEC_IMAGES]
    figures = codec_figures(fitted._replace(codec=codec), model, test)
    _require_weights(bundle, weights)  # of what may have changed in the hours since
    training = _training_on(dataset, bundle)
    training["config"] = {**_table(training, "config"), "codec": config.codec.model_dump(mode="json")}
    training["codec"] = {
        **figures._asdict(),
        "test_images": len(test),
        **made_by,
    }
    card, _, _ = (bundle / "README.md").read_bytes().partition(CODEC_HEADING.encode())
    rows = [" | ".join(f"{bits:.4f}" for bits in row.values()) for row in figures]
    note = CODEC_NOTE.format(
        **figures.bits_per_dim, images=len(test), payload=rows[0], integer=rows[1], floats=rows[2]
    )
    change_bundle(
        bundle,
        {
            FILE: content,
            "training.json": json.dumps(training, indent=2, ensure_ascii=False).encode() + b"\n",
            "README.md": card + (CODEC_HEADING + note).encode(),
        },
    )
    return figures


def export_quantiles(dataset: Dataset, place: Place, bundle: Path) -> Metrics:
    """Put the quantiles of a bundle's −ELBO on test images into its metrics, and change nothing else.

    Raises BundleError where there is no such bundle, RunError where it was trained on other data or its mean
    ELBO is another here.
    """
    found, weights = load_bundle(bundle), _digest_of_weights(bundle)
    _training_on(dataset, bundle)
    metrics = with_quantiles(found.metrics, found.model.to(place.device), dataset)
    _require_weights(bundle, weights)
    change_bundle(bundle, {METRICS: metrics_file(metrics)})
    return metrics


def _training_on(dataset: Dataset, bundle: Path) -> Any:
    training = json.loads((bundle / "training.json").read_bytes())
    if (digest := _table(training, "data").get("digest")) != dataset.digest:
        raise RunError(f"{bundle}: trained on data of digest {digest}; this is {dataset.digest}")
    return training


def _digest_of_weights(bundle: Path) -> bytes:
    return hashlib.sha256((bundle / WEIGHTS).read_bytes()).digest()


def _require_weights(bundle: Path, digest: bytes) -> None:
    if _digest_of_weights(bundle) != digest:
        raise RunError(f"{bundle}: has other weights by now")


def _table(training: dict[str, Any], name: str) -> dict[str, Any]:
    table = training.get(name)  # of a document for people, which others may have written
    return table if isinstance(table, dict) else {}


def draw_plots(model: VAE, trainer: Trainer, latents: AggregatedPosterior, folder: Path) -> None:
    """Write every plot of a run to `folder`."""
    folder.mkdir()
    test = trainer.dataset.test
    plot_curves(trainer.history, folder / "curves.png")
    plot_reconstructions(model, test[:20], folder / "reconstructions.png")
    plot_samples(model, latents, "standard", folder / "samples-standard.png")
    plot_samples(model, latents, "aggregated", folder / "samples-aggregated.png")
    plot_traversals(model, latents, folder / "traversals.png")
    mu = posterior_means(model, levels_on_device(model, test))
    plot_latent_means(mu, trainer.dataset.test_labels, folder / "latent-means.png")


def provenance(trainer: Trainer) -> Mapping[str, Any]:
    """Return training.json: how the weights came to be, in full; figures that are not finite are null."""
    config = json.loads(trainer.trained_config)
    del config["data"]["path"]  # a bundle goes to other machines, where the digest names the data
    config["evaluation"] = trainer.config.evaluation.model_dump(mode="json")
    config["codec"] = trainer.config.codec and trainer.config.codec.model_dump(mode="json")
    return {
        "config": config,
        "data": {
            "digest": trainer.dataset.digest,
            "train_images": len(trainer.dataset.train),
            "test_images": len(trainer.dataset.test),
        },
        **trainer.environment,
        "steps": trainer.step,
        "skipped_steps": trainer.skipped_steps,
        "wall_seconds": round(trainer.seconds, 1),
        "history": [
            {name: value if math.isfinite(value) else None for name, value in record.items()}
            for record in trainer.history
        ],
    }
