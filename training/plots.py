"""Plots that a person wants to look at, each written as one PNG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from matplotlib.figure import Figure

from models.priors import AggregatedPosterior, Prior, sample_latents
from models.vae import VAE
from training.evaluation import posterior_means
from training.inputs import device_of, levels_on_device
from training.trainer import Record

Images = UInt8[np.ndarray, "image height width channel"]
INK, MUTED = "#1f2933", "#9aa5b1"
BLUE, ORANGE = "#2563a8", "#d9722e"


@torch.inference_mode()
def decode_to_images(model: VAE, z: Float32[np.ndarray, "image latent"]) -> Images:
    """Return the means of p(x given z) as pixels (N, H, W, C)."""
    latents = torch.from_numpy(z).to(device_of(model))
    return model.to_pixels(model.x_hat(latents)).permute(0, 2, 3, 1).cpu().numpy()


def plot_curves(history: Sequence[Record], path: Path) -> None:
    """Draw −ELBO on training and test images and the test KL against epochs, in bits/dim."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    for split, colour in (("train", MUTED), ("test", BLUE)):
        values = [record[f"{split}_distortion"] + record[f"{split}_kl"] for record in history]
        left.plot(
            epochs, values, color=colour, label="training" if split == "train" else "test (averaged weights)"
        )
    finite = filter(math.isfinite, (record["test_distortion"] + record["test_kl"] for record in history))
    best = min(finite, default=1.0)
    left.set(title="−ELBO", ylabel="bits/dim", xlabel="epoch", ylim=(best * 0.97, best * 1.25))
    left.legend(frameon=False)
    right.plot(epochs, [record["test_kl"] for record in history], color=ORANGE)
    right.set(title="KL, test", xlabel="epoch", ylim=(0, None))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def plot_reconstructions(
    model: VAE, pixels: UInt8[np.ndarray, "image channel height width"], path: Path
) -> None:
    """Draw images above their reconstructions through mu."""
    mu = posterior_means(model, levels_on_device(model, pixels))
    originals = pixels.transpose(0, 2, 3, 1)
    rows = np.stack([originals, decode_to_images(model, mu)])
    _save_grid(rows, path, "test images, and their reconstructions through mu")


def plot_samples(model: VAE, latents: AggregatedPosterior, prior: Prior, path: Path, side: int = 10) -> None:
    """Draw a square of samples from a prior, seed 0."""
    z = sample_latents(latents, prior, seed=0, offset=0, count=side * side, temperature=1.0)
    images = decode_to_images(model, z)
    _save_grid(images.reshape(side, side, *images.shape[1:]), path, f"samples, {prior} prior, seed 0")


def plot_traversals(
    model: VAE, latents: AggregatedPosterior, path: Path, rows: int = 10, columns: int = 11
) -> None:
    """Draw the decoder's answer as each of the most active latents moves from −3 to 3 standard deviations."""
    rows = min(rows, len(latents.std))
    dims = np.argsort(-latents.std)[:rows]
    z = np.tile(latents.mean, (rows, columns, 1))
    for row, dim in enumerate(dims):
        z[row, :, dim] += np.linspace(-3, 3, columns, dtype=np.float32) * latents.std[dim]
    images = decode_to_images(model, z.reshape(rows * columns, -1))
    title = f"latents {', '.join(map(str, dims))} moved from −3σ to 3σ"
    _save_grid(images.reshape(rows, columns, *images.shape[1:]), path, title)


def plot_latent_means(
    mu: Float32[np.ndarray, "image latent"], labels: np.ndarray | None, path: Path, shown: int = 5000
) -> None:
    """Draw mu of test images on its first two principal components, coloured by label where there is one."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    axes = figure.subplots()
    centred = mu - mu.mean(axis=0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    points = centred[:shown] @ components[:2].T
    first, second = points[:, 0], points[:, -1]
    if labels is None:
        axes.scatter(first, second, s=4, color=BLUE, alpha=0.5)
    else:
        scatter = axes.scatter(first, second, s=4, c=labels[:shown], cmap="tab10", alpha=0.6)
        legend = scatter.legend_elements()
        axes.legend(*legend, title="label", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(title="mu of test images", xlabel="first principal component", ylabel="second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _save_grid(images: UInt8[np.ndarray, "row column height width channel"], path: Path, title: str) -> None:
    rows, columns, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=128)
    sheet = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + 2), columns * (width + 2), channels)
    figure = Figure(figsize=(columns * 0.6, rows * 0.6 * height / width + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(
        sheet.squeeze(-1) if channels == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="none"
    )
    axes.set_title(title, fontsize=9, color=INK)
    axes.axis("off")
    figure.savefig(path, dpi=110)
