"""What a request may have computed, whichever protocol it came by."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import numpy as np
from starlette.requests import Request

from app.batcher import Answer
from app.coder import Coder, Result, bytes_of
from app.errors import Kind, Problem
from app.negotiation import ImageChunk, Limits
from app.operations import SCORES, ModelTask, Operation
from app.service import Service, Work
from codec.archive import ArchiveTooLargeError, header_of, is_archive, opened
from codec.encoding import Manner, MannerError
from codec.payload import Header, PayloadError, UnknownModelError, parsed
from models.bundle import Bundle
from models.priors import Prior, sample_latents

RANDOM_SEED_BITS = 32
QUICK_PAYLOAD_BYTES = 32 << 10  # opened on the event loop
MAX_ARCHIVE_PAYLOADS, MAX_INDEX_BYTES = 4096, 1 << 20


@dataclass(frozen=True)
class Draw:
    """Which samples: `count` from the one numbered `offset` of a seed."""

    prior: Prior
    seed: int
    offset: int
    count: int
    temperature: float


@dataclass(frozen=True)
class Scores:
    """SCORES and bits_per_dim of images by name, float32 (N,), and where the time went."""

    figures: dict[str, np.ndarray]
    queue_seconds: float
    compute_seconds: float


def seed_or_random(seed: int | None) -> int:
    """Return a seed, a random one in place of none."""
    return secrets.randbits(RANDOM_SEED_BITS) if seed is None else seed


async def compute(
    service: Service, request: Request, bundle: Bundle, operation: Operation, work: Work
) -> Answer:
    """Encode or reconstruct images, or decode latents."""
    with service.statistics.counted(request, bundle.id, operation, len(work.rows)) as counted:
        answer = await service.compute(request, ModelTask(bundle.id, operation), work)
        counted.took(answer)
    return answer


async def score(service: Service, request: Request, bundle: Bundle, work: Work, samples: int) -> Scores:
    """Score images from K = `samples` latent samples each."""
    with service.statistics.counted(request, bundle.id, Operation.SCORE, len(work.rows)) as counted:
        answer = await service.compute(request, ModelTask(bundle.id, Operation.SCORE, samples), work)
        counted.took(answer)
    figures = dict(zip(SCORES, answer.arrays, strict=True))
    nats_per_bit_per_dim = np.float32(math.prod(bundle.config.input.shape) * math.log(2))
    figures["bits_per_dim"] = -figures["elbo"] / nats_per_bit_per_dim
    return Scores(figures, answer.queue_seconds, answer.compute_seconds)


def check_score_samples(service: Service, samples: int) -> None:
    """Raise Problem for more latent samples an image than a score may take."""
    if samples > (limit := service.settings.max_score_samples):
        raise Problem(Kind.INVALID, f"samples is {samples}; the limit is {limit}", value=samples, limit=limit)


async def samples(
    service: Service, request: Request, bundle: Bundle, draw: Draw
) -> AsyncGenerator[ImageChunk]:
    """Yield samples and their latents in parts of a batch, each computed once the one before it is taken."""
    task = ModelTask(bundle.id, Operation.DECODE)
    with service.statistics.counted(request, bundle.id, "sample", draw.count) as counted:
        async for rows in _drawn(service, bundle, draw):
            work = Work(rows, service.deadline())
            if counted.parts == 0:  # meets admission like any request, and the watch for its client
                answer = await service.compute(request, task, work)
            else:
                answer = await service.batcher.submit_when_room(task, work.rows, work.deadline)
            counted.took(answer)
            yield ImageChunk(answer.arrays[0], work.rows)


@dataclass(frozen=True)
class Gathered:
    """All samples of a request at once, their latents, and where the time went."""

    images: np.ndarray
    latents: np.ndarray
    queue_seconds: float
    compute_seconds: float


async def gather_samples(
    service: Service, request: Request, bundle: Bundle, draw: Draw, deadline: float
) -> Gathered:
    """Draw all samples by a deadline."""
    task = ModelTask(bundle.id, Operation.DECODE)
    images: list[np.ndarray] = []
    latents: list[np.ndarray] = []

    async def gathering() -> None:
        async for rows in _drawn(service, bundle, draw, deadline):
            submit = service.batcher.submit_when_room if images else service.batcher.submit
            answer = await submit(task, rows, deadline)
            counted.took(answer)
            images.append(answer.arrays[0])
            latents.append(rows)

    with service.statistics.counted(request, bundle.id, "sample", draw.count) as counted:
        await service.unless_departed(request, gathering())
    whole = np.concatenate(images), np.concatenate(latents)
    return Gathered(*whole, counted.queue_seconds, counted.compute_seconds)


async def _drawn(
    service: Service, bundle: Bundle, draw: Draw, deadline: float | None = None
) -> AsyncGenerator[np.ndarray]:
    """Yield latents, a batch at a time, all by a deadline or each by its own.

    Raises Problem, overloaded, where nothing has room, before it draws: which takes little beside decoding.
    """
    service.batcher.check_room()
    part = min(service.batcher.max_batch, service.settings.max_queued_images)
    stop = draw.offset + draw.count
    latents = partial(
        sample_latents, bundle.latents, draw.prior, seed=draw.seed, temperature=draw.temperature
    )
    for start in range(draw.offset, stop, part):
        drawing = asyncio.to_thread(latents, offset=start, count=min(part, stop - start))
        yield await service.in_time(drawing, deadline or service.deadline())


async def compress(
    service: Service, request: Request, bundle: Bundle, work: Work, manner: Manner
) -> Result[bytes]:
    """Compress images (N, H, W, C) of any one shape into a payload."""
    images = work.rows
    coding = service.coder.compress(images.transpose(0, 3, 1, 2), bundle.id, manner, work.deadline)
    try:
        with service.statistics.counted(request, bundle.id, Operation.COMPRESS, len(images)) as counted:
            coded = await service.unless_departed(request, coding)
            counted.took(coded)
        return coded
    except MannerError as error:
        raise Problem(Kind.INVALID, str(error), value=error.value, limit=error.limit) from error
    except PayloadError as error:  # no payload holds images of such sides
        raise Problem(Kind.INVALID, str(error), value=list(images.shape)) from error


@dataclass(frozen=True)
class Opened:
    """A payload whose header was read, and the place in it of the one image that is asked for, if one is."""

    header: Header
    place: int | None

    @property
    def count(self) -> int:
        """Images that are asked for."""
        return self.header.count if self.place is None else 1


async def open_payload(
    service: Service,
    request: Request,
    payload: bytes,
    index: int | None,
    expected: str | None,
    deadline: float,
) -> Opened:
    """Read the header of a payload, or of the one in an archive that `index` is in.

    Raises Problem for a damaged payload, one of a model that is not loaded or not `expected`, an index
    outside and more images than one request may have: before anything of a declared size is allocated.
    """
    opening = partial(_opened, service.coder, payload, index)
    is_quick = len(payload) <= QUICK_PAYLOAD_BYTES and not is_archive(payload)  # whose names may be many
    if is_quick:
        found = opening()
    else:
        found = await service.in_thread(request, opening, "opening", len(payload), deadline)
    _check_model(service.coder, found.header, expected)
    _check_size(found, service.limits)
    return found


async def decompress(
    service: Service, request: Request, payload: Opened, deadline: float
) -> Result[np.ndarray]:
    """Return the images of an opened payload, uint8 (N, H, W, C).

    One without a model counts as the default bundle's, which made it.
    """
    model = payload.header.model
    id = next(iter(service.bundles)) if model is None else service.coder.id_of(model)
    decoding = service.coder.decompress(payload.header, payload.place, deadline)
    try:
        with service.statistics.counted(request, id, Operation.DECOMPRESS, payload.count) as counted:
            decoded = await service.unless_departed(request, decoding)
            counted.took(decoded)
        return decoded
    except PayloadError as error:
        raise Problem(Kind.MALFORMED, f"the payload: {error}") from error


def _opened(coder: Coder, data: bytes, index: int | None) -> Opened:
    try:
        if is_archive(data):
            return _opened_archive(coder, data, index)
        header = parsed(data, coder.find)
    except ArchiveTooLargeError as error:
        raise Problem(Kind.TOO_LARGE, str(error)) from error
    except UnknownModelError as error:
        loaded = coder.loaded
        raise Problem(
            Kind.OTHER_MODEL, f"the payload was {error}; loaded are {loaded}", limit=loaded
        ) from error
    except PayloadError as error:
        raise Problem(Kind.MALFORMED, f"the payload: {error}") from error
    if index is not None and index >= header.count:
        raise _outside(index, header.count)
    return Opened(header, index)


def _opened_archive(coder: Coder, data: bytes, index: int | None) -> Opened:
    archive = opened(data, MAX_ARCHIVE_PAYLOADS, MAX_INDEX_BYTES)
    if index is not None:
        place = index
        for names, payload in zip(archive.names, archive.payloads, strict=True):
            if place < len(names):
                return Opened(header_of(payload, names, coder.find), place)
            place -= len(names)
        raise _outside(index, index - place)
    if len(archive.payloads) != 1:
        detail = f"an archive of {len(archive.payloads)} payloads; without index, one is read at a time"
        raise Problem(Kind.INVALID, detail, value=len(archive.payloads), limit=1)
    return Opened(header_of(archive.payloads[0], archive.names[0], coder.find), None)


def _outside(index: int, count: int) -> Problem:
    return Problem(
        Kind.INVALID, f"index is {index}; the payload has {count} images", value=index, limit=count
    )


def _check_model(coder: Coder, header: Header, expected: str | None) -> None:
    if expected is not None and header.model is not None and not coder.has(expected, header.model):
        actual = coder.id_of(header.model)
        detail = f"the payload is of model {actual}, not of {expected}"
        raise Problem(Kind.OTHER_MODEL, detail, value=actual, limit=expected)


def _check_size(payload: Opened, limits: Limits) -> None:
    if payload.count > limits.images:
        detail = f"{payload.count} images; the limit is {limits.images} a request, or one with index"
        raise Problem(Kind.TOO_LARGE, detail, value=payload.count, limit=limits.images)
    size = bytes_of(payload.header, payload.place)
    if size > limits.decoded_bytes:
        detail = f"the images decode to {size} bytes; the limit is {limits.decoded_bytes}"
        raise Problem(Kind.TOO_LARGE, detail, value=size, limit=limits.decoded_bytes)
