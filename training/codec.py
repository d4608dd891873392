"""The codec of a trained VAE: a copy of its decoder and a context network, trained and put in integers.

    mu ─► k = mu / step, rounded ─► decoder (a copy) ─► head ─► features ─┐
    levels before each pixel ─────────────────────────────────────────────┴─► mixture ─► −log2 p(level)

The encoder stays as it is, so that the latents are those that the service gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from codec.chunk import with_golden
from codec.latents import fit_latent_tables
from codec.mixture import make_tables
from codec.model import NO_GOLDEN, CodecConfig, CodecModel
from codec.networks import IntegerEncoder
from models.config import VAEConfig
from models.likelihoods import Levels
from models.vae import VAE
from training.config import CodecTraining
from training.context import ContextModel, integer_context, log_prob
from training.datasets import Dataset
from training.errors import RunError
from training.evaluation import posteriors
from training.inputs import levels_on_device
from training.quantisation import integer_decoder, integer_encoder
from training.trainer import moving_average, schedule

CALIBRATION_IMAGES = 512
DIVERGED_STEPS = 100  # without a finite gradient in a row, after which training is given up
GOLDEN_IMAGES = 6
REPORTED_STEPS = 20  # between two figures on the progress bar


class CodecNetwork(nn.Module):
    """p(levels given k) in floats: a VAE's decoder but for its last layer, and a context network."""

    steps: Tensor

    def __init__(self, model: VAE, steps: Float[Tensor, " latent"], config: CodecTraining) -> None:
        super().__init__()
        self.register_buffer("steps", steps)
        self.decoder = nn.Sequential(*deepcopy(list(model.decoder)[:-1]))
        self.context = ContextModel(model.config.input.shape, model.config.channels[0], config)

    def activations(self, k: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel h w"]:
        """Return what the head reads."""
        activations: Tensor = self.decoder(k * self.steps)
        return activations

    def forward(self, levels: Levels, k: Float[Tensor, "batch latent"]) -> Float[Tensor, ""]:
        """Return the mean −log2 p of a level."""
        return -log_prob(levels, self.context(levels, self.activations(k))).mean() / math.log(2)


def fit_codec(model: VAE, dataset: Dataset, config: CodecTraining, seed: int) -> CodecModel:
    """Train the codec of a VAE, and return it in integers.

    Raises RunError for a VAE that is not convolutional or has binary pixels, for a batch that exceeds the
    data, and for gradients that stay NaN or infinite.
    """
    if model.config.family != "convolutional" or model.config.input.levels != 256:
        raise RunError("a codec needs a convolutional VAE of 256 levels")
    levels = levels_on_device(model, dataset.train)
    _, logvar = posteriors(model, levels)
    steps = torch.from_numpy(config.latent_step * np.median(np.exp(logvar / 2), axis=0))
    chosen = np.random.default_rng(seed).permutation(len(levels))[:CALIBRATION_IMAGES]
    calibration = levels[torch.from_numpy(chosen)]
    on_cpu = deepcopy(model).cpu()
    encoder = integer_encoder(on_cpu, steps, calibration.cpu())
    k = encoder.latents(dataset.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CodecNetwork(on_cpu, steps, config)
        magnitude = _scale_head(network, torch.from_numpy(k[chosen]).float())
    network = network.to(levels.device)
    trained = _trained(
        network, magnitude, levels, torch.from_numpy(k).to(levels.device).float(), config, seed
    ).cpu()
    return _in_integers(on_cpu.config, encoder, trained, calibration.cpu(), chosen, k, config)


def _trained(
    network: CodecNetwork, magnitude: float, levels: Levels, k: Tensor, config: CodecTraining, seed: int
) -> CodecNetwork:
    head = network.context.head
    rest = [
        parameter for name, parameter in network.context.named_parameters() if not name.startswith("head.")
    ]
    rates = [
        (rest, config.learning_rate),
        (list(head.parameters()), config.learning_rate / magnitude),
        (list(network.decoder.parameters()), config.decoder_learning_rate),
    ]
    optimiser = torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "rate": rate} for parameters, rate in rates],
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
    )
    averaged = AveragedModel(network, multi_avg_fn=moving_average(config.ema_decay))
    steps_an_epoch = len(levels) // config.batch_size
    if steps_an_epoch == 0:
        raise RunError(f"codec.batch_size {config.batch_size} exceeds the {len(levels)} training images")
    skipped_in_a_row = 0
    network.train()
    with tqdm(total=config.epochs * steps_an_epoch * config.batch_size, unit="image", desc="codec") as bar:
        for step, indices in enumerate(_batches(len(levels), config, seed)):
            with torch.autocast(levels.device.type, torch.bfloat16):
                bits = network(levels[indices], k[indices])
            optimiser.zero_grad(set_to_none=True)
            bits.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient_norm)
            skipped_in_a_row = 0 if norm.isfinite() else skipped_in_a_row + 1
            if skipped_in_a_row == DIVERGED_STEPS:
                raise RunError(
                    f"the codec has diverged: in {DIVERGED_STEPS} steps in a row, to step {step + 1}, the"
                    " gradient was not finite; lower learning rates may help"
                )
            if not skipped_in_a_row:
                factor = schedule(step, config.epochs * steps_an_epoch, config.warmup_steps)
                for group in optimiser.param_groups:
                    group["lr"] = factor * group["rate"]
                optimiser.step()
                averaged.update_parameters(network)
            bar.update(len(indices))
            if step % REPORTED_STEPS == 0:
                bar.set_postfix_str(f"{float(bits.detach()):.3f} bits/dim")
    trained = averaged.module
    assert isinstance(trained, CodecNetwork)
    return trained.eval()


def _scale_head(network: CodecNetwork, k: Tensor) -> float:
    """Draw the head's weights so that features are about 1; return the magnitude of what it reads."""
    convolution = network.context.head.convolution
    with torch.no_grad():
        magnitude = float(network.activations(k).square().mean().sqrt())
        convolution.weight.normal_(std=1 / (magnitude * math.sqrt(convolution.weight[0].numel())))
    return magnitude


def _batches(images: int, config: CodecTraining, seed: int) -> Iterator[Tensor]:
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(images, generator=generator)
        yield from order[: images - images % config.batch_size].split(config.batch_size)


def _in_integers(
    vae: VAEConfig,
    encoder: IntegerEncoder,
    network: CodecNetwork,
    calibration: Levels,
    chosen: np.ndarray,
    k: np.ndarray,
    config: CodecTraining,
) -> CodecModel:
    some = torch.from_numpy(k[chosen]).float()
    whole = nn.Sequential(*network.decoder, network.context.head)
    decoder, feature_steps = integer_decoder(vae, whole, network.steps, some)
    with torch.inference_mode():
        context = integer_context(network.context, feature_steps, calibration, network.activations(some))
    sizes = CodecConfig(
        shape=vae.input.shape,
        latent_dim=vae.latent_dim,
        channels=vae.channels,
        blocks=vae.blocks,
        padding=encoder.padding,
        reach=config.reach,
        features=config.features,
        hidden=config.hidden,
        layers=config.layers,
        components=config.components,
    )
    without = CodecModel(sizes, encoder, decoder, context, fit_latent_tables(k), make_tables(), NO_GOLDEN)
    return with_golden(without, _golden_levels(calibration.numpy()))


def _golden_levels(images: np.ndarray) -> np.ndarray:
    """Return some images, then what no model expects: noise, black, white."""
    noise = np.random.default_rng(0).integers(0, 256, images[:1].shape, np.uint8)
    return np.concatenate([images[:GOLDEN_IMAGES], noise, np.zeros_like(noise), np.full_like(noise, 255)])
