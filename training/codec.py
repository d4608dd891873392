"""The codec of a trained VAE: a copy of its decoder and a context network, trained and put in integers.

    mu ─► k = mu / step, rounded ─► decoder (a copy) ─► head ─► features ─┐
    levels before each pixel ─────────────────────────────────────────────┴─► mixture ─► −log2 p(level)
    mu ─► k on a rung of the ladder ─► decoder (another) ─► head ─► levels ─► squared error

The encoder stays as it is, so that the latents are those that the service gives. Without features, levels are
coded given those before them alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from codec.chunk import with_golden
from codec.context import FAST_LAYERS, ContextNetwork
from codec.ladder import STEPS, fit_ladder
from codec.latents import NO_LATENTS, fit_latent_tables
from codec.mixture import make_tables
from codec.model import NO_GOLDEN, CodecConfig, CodecModel, FastConfig
from codec.networks import FINER_BITS, IntegerDecoder, IntegerEncoder
from models.config import VAEConfig
from models.likelihoods import Levels
from models.vae import VAE, Upsample
from training.config import CodecTraining, FastTraining
from training.context import ContextModel, Grid, Outputs, integer_context, log_prob, whitening
from training.datasets import Dataset
from training.errors import RunError
from training.evaluation import posteriors
from training.inputs import levels_on_device
from training.quantisation import integer_decoder, integer_encoder
from training.trainer import moving_average, schedule

CALIBRATION_IMAGES = 512
DIVERGED_STEPS = 100  # without a finite gradient in a row, after which training is given up
GOLDEN_IMAGES = 6
HALF_RANGE = 127.5  # of levels
Model = TypeVar("Model", bound=nn.Module)
REPORTED_STEPS = 20  # between two figures on the progress bar


class LatentNetwork(nn.Module):
    """A copy of a VAE's decoder that takes latents in steps, its last layer a new one."""

    steps: Tensor

    def __init__(self, model: VAE, steps: Float[Tensor, " latent"], outputs: int) -> None:
        super().__init__()
        self.register_buffer("steps", steps)
        self.decoder = nn.Sequential(*deepcopy(list(model.decoder)[:-1]))
        _, height, width = model.config.input.shape
        self.head = Upsample(model.config.channels[0], outputs, (height, width))

    def activations(self, k: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel h w"]:
        """Return what the head reads."""
        activations: Tensor = self.decoder(k * self.steps)
        return activations


class CodecNetwork(LatentNetwork):
    """p(levels given k) in floats: the decoder's features and a context network."""

    def __init__(
        self, model: VAE, steps: Float[Tensor, " latent"], config: CodecTraining, calibration: Levels
    ) -> None:
        super().__init__(model, steps, config.features)
        self.context = context_model(config, config.layers, calibration, self.head, config.features)
        self.grids = Grids(config.stride)

    def forward(self, levels: Levels, k: Float[Tensor, "batch latent"]) -> Float[Tensor, ""]:
        """Return the mean −log2 p of a level on the next grid."""
        return self.bits(levels, k, next(self.grids))

    def bits(self, levels: Levels, k: Float[Tensor, "batch latent"], grid: Grid) -> Float[Tensor, ""]:
        """Return the mean −log2 p of a level on a grid."""
        return _bits(grid.of(levels), self.context(levels, self.activations(k), grid))


class LevelNetwork(nn.Module):
    """p(levels) in floats: a context network alone."""

    def __init__(self, context: ContextModel, stride: int) -> None:
        super().__init__()
        self.context, self.grids = context, Grids(stride)

    def forward(self, levels: Levels) -> Float[Tensor, ""]:
        """Return the mean −log2 p of a level on the next grid."""
        return self.bits(levels, next(self.grids))

    def bits(self, levels: Levels, grid: Grid) -> Float[Tensor, ""]:
        """Return the mean −log2 p of a level on a grid."""
        return _bits(grid.of(levels), self.context(levels, None, grid))


class Grids(Iterator[Grid]):
    """Grids of pixels, each from another corner: more images teach more than more of their pixels do."""

    def __init__(self, stride: int) -> None:
        self.stride, self.corners = stride, np.random.default_rng(0)

    def __next__(self) -> Grid:
        """Return the next step's grid."""
        top, left = self.corners.integers(self.stride, size=2)
        return Grid(int(top), int(left), self.stride)


def context_model(
    config: CodecTraining | FastTraining,
    layers: int,
    calibration: Levels,
    head: Upsample | None = None,
    features: int = 0,
) -> ContextModel:
    """Return a context network of a config's sizes, yet to be trained on images like these."""
    _, channels, height, width = calibration.shape
    return ContextModel(
        (channels, height, width),
        reach=config.reach,
        hidden=config.hidden,
        layers=layers,
        components=config.components,
        whitening=whitening(calibration, config.reach),
        head=head,
        features=features,
    )


class PictureNetwork(LatentNetwork):
    """The image of latents alone, in floats."""

    def __init__(self, model: VAE, steps: Float[Tensor, " latent"]) -> None:
        super().__init__(model, steps / 2**FINER_BITS, model.config.input.shape[0])

    def forward(self, levels: Levels, finer: Float[Tensor, "batch latent"]) -> Float[Tensor, ""]:
        """Return the mean squared error, in half the range of levels, over all rungs of latents."""
        rungs = torch.arange(len(finer), device=finer.device) % len(STEPS)
        steps = torch.tensor(STEPS, device=finer.device)[rungs, None].float()
        magnitude = torch.floor((3 * finer.abs() + steps) / (3 * steps))  # as codec.ladder.quantised
        picture = self.head(self.activations(finer.sign() * magnitude * steps))
        return F.mse_loss(picture.float(), levels / HALF_RANGE)


def _bits(levels: Levels, outputs: Outputs) -> Float[Tensor, ""]:
    return -log_prob(levels, outputs).mean() / math.log(2)


class Fitted(NamedTuple):
    """A codec, and the networks in floats that its context networks were made of."""

    codec: CodecModel
    best: CodecNetwork | LevelNetwork
    fast: LevelNetwork


def fit_codec(model: VAE, dataset: Dataset, config: CodecTraining, seed: int) -> Fitted:
    """Train the codec of a VAE, and put it in integers.

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
    decoder, tables = None, NO_LATENTS
    best: CodecNetwork | LevelNetwork
    if config.features:
        k = encoder.latents(dataset.train)
        tables = fit_latent_tables(k)
        best, decoder, context = _fit_with_latents(on_cpu, steps, levels, k, chosen, config, seed)
    else:
        best, context = _fit_alone(levels, calibration.cpu(), config, config.layers, config, seed)
    fast, fast_context = _fit_alone(levels, calibration.cpu(), config.fast, FAST_LAYERS, config, seed)
    finer = encoder.finer_latents(dataset.train)
    pictures = _fit_pictures(on_cpu, steps, levels, finer, config, seed)
    without = CodecModel(
        _sizes(on_cpu.config, encoder, config),
        encoder,
        decoder,
        pictures,
        context,
        fast_context,
        tables,
        fit_ladder(finer),
        make_tables(),
        NO_GOLDEN,
    )
    return Fitted(with_golden(without, _golden_levels(calibration.cpu().numpy())), best, fast)


def _fit_with_latents(
    model: VAE,
    steps: Float[Tensor, " latent"],
    levels: Levels,
    k: np.ndarray,
    chosen: np.ndarray,
    config: CodecTraining,
    seed: int,
) -> tuple[CodecNetwork, IntegerDecoder, ContextNetwork]:
    some, calibration = torch.from_numpy(k[chosen]).float(), levels[torch.from_numpy(chosen)].cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CodecNetwork(model, steps, config, calibration)
        magnitude = _scale_head(network, some)
    network = network.to(levels.device)
    head, rest = network.head, list(network.context.parameters())
    of_head = {id(parameter) for parameter in head.parameters()}
    rates = [
        ([parameter for parameter in rest if id(parameter) not in of_head], config.learning_rate),
        (list(head.parameters()), config.learning_rate / magnitude),
        (list(network.decoder.parameters()), config.decoder_learning_rate),
    ]
    inputs = (levels, torch.from_numpy(k).to(levels.device).float())
    trained = _trained(network, rates, inputs, config, config.epochs, seed).cpu()
    whole = nn.Sequential(*trained.decoder, trained.head)
    decoder, feature_steps = integer_decoder(model.config, whole, trained.steps, some)
    with torch.inference_mode():
        activations = trained.activations(some)
        context = integer_context(trained.context, feature_steps, calibration, activations)
    return trained, decoder, context


def _fit_alone(
    levels: Levels,
    calibration: Levels,
    sizes: CodecTraining | FastTraining,
    layers: int,
    config: CodecTraining,
    seed: int,
) -> tuple[LevelNetwork, ContextNetwork]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LevelNetwork(context_model(sizes, layers, calibration), config.stride).to(levels.device)
    rates = [(list(network.parameters()), sizes.learning_rate)]
    trained = _trained(network, rates, (levels,), config, sizes.epochs, seed).cpu()
    return trained, integer_context(trained.context, torch.zeros(0), calibration)


def _fit_pictures(
    model: VAE,
    steps: Float[Tensor, " latent"],
    levels: Levels,
    finer: np.ndarray,
    config: CodecTraining,
    seed: int,
) -> IntegerDecoder:
    z = torch.from_numpy(finer).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PictureNetwork(model, steps)
        magnitude = _scale_head(network, z[:CALIBRATION_IMAGES])
        nn.init.ones_(network.head.convolution.bias)  # type: ignore[arg-type]
    network = network.to(levels.device)
    rates = [
        (list(network.head.parameters()), config.learning_rate / magnitude),
        (list(network.decoder.parameters()), config.decoder_learning_rate),
    ]
    inputs = (levels, z.to(levels.device))
    trained = _trained(network, rates, inputs, config, config.picture_epochs, seed).cpu()
    whole = nn.Sequential(*trained.decoder, trained.head)
    output_steps = torch.full((levels.shape[1],), 1 / HALF_RANGE)
    return integer_decoder(model.config, whole, trained.steps, z[:CALIBRATION_IMAGES], output_steps)[0]


def _trained(
    network: Model,
    rates: Sequence[tuple[list[nn.Parameter], float]],
    inputs: tuple[Tensor, ...],
    config: CodecTraining,
    epochs: int,
    seed: int,
) -> Model:
    """Return the moving average of a network's weights, trained to make its output small for all inputs."""
    images, device = len(inputs[0]), inputs[0].device.type
    optimiser = torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "rate": rate} for parameters, rate in rates],
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
    )
    averaged = AveragedModel(network, multi_avg_fn=moving_average(config.ema_decay))
    steps_an_epoch = images // config.batch_size
    if steps_an_epoch == 0:
        raise RunError(f"codec.batch_size {config.batch_size} exceeds the {images} training images")
    skipped_in_a_row = 0
    network.train()
    with tqdm(total=epochs * steps_an_epoch * config.batch_size, unit="image", desc="codec") as bar:
        for step, indices in enumerate(_batches(images, config.batch_size, epochs, seed)):
            with torch.autocast(device, torch.bfloat16):
                loss = network(*(tensor[indices] for tensor in inputs))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient_norm)
            skipped_in_a_row = 0 if norm.isfinite() else skipped_in_a_row + 1
            if skipped_in_a_row == DIVERGED_STEPS:
                raise RunError(
                    f"the codec has diverged: in {DIVERGED_STEPS} steps in a row, to step {step + 1}, the"
                    " gradient was not finite; lower learning rates may help"
                )
            if not skipped_in_a_row:
                factor = schedule(step, epochs * steps_an_epoch, config.warmup_steps)
                for group in optimiser.param_groups:
                    group["lr"] = factor * group["rate"]
                optimiser.step()
                averaged.update_parameters(network)
            bar.update(len(indices))
            if step % REPORTED_STEPS == 0:
                bar.set_postfix_str(f"loss {float(loss.detach()):.4f}")
    return cast(Model, averaged.module).eval()


def _scale_head(network: LatentNetwork, k: Tensor) -> float:
    """Draw the head's weights so that its outputs are about 1; return the magnitude of what it reads."""
    convolution = network.head.convolution
    with torch.no_grad():
        magnitude = float(network.activations(k).square().mean().sqrt())
        convolution.weight.normal_(std=1 / (magnitude * math.sqrt(convolution.weight[0].numel())))
    return magnitude


def _batches(images: int, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(images, generator=generator)
        yield from order[: images - images % batch_size].split(batch_size)


def _sizes(vae: VAEConfig, encoder: IntegerEncoder, config: CodecTraining) -> CodecConfig:
    return CodecConfig(
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
        fast=FastConfig(
            reach=config.fast.reach, hidden=config.fast.hidden, components=config.fast.components
        ),
    )


def _golden_levels(images: np.ndarray) -> np.ndarray:
    """Return some images, then what no model expects: noise, black, white."""
    noise = np.random.default_rng(0).integers(0, 256, images[:1].shape, np.uint8)
    return np.concatenate([images[:GOLDEN_IMAGES], noise, np.zeros_like(noise), np.full_like(noise, 255)])
