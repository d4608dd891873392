"""What the soak asks besides: the service's other routes, a coding, a long stream, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from app.operations import SCORES, score
from benchmarks.serving.material import Material, direct_images
from benchmarks.serving.workloads import (
    JSON,
    NPY,
    NPY_1,
    NPY_64,
    PAYLOAD,
    SAMPLE_16,
    SAMPLE_SEED,
    SAMPLES,
    Arrays,
    Body,
    Workload,
    npy_bytes,
    read_images,
)
from codec.chunk import verified
from codec.encoding import compress
from codec.model import FILE
from models.bundle import Bundle
from models.priors import sample_latents

STREAMED = 500  # images, of several pages
SCORED = 4  # images a request
SCORE_SAMPLES = 16
SCORE_TOLERANCE = 1e-4  # sums of many log-likelihoods


def other_workloads(bundle: Bundle, material: Material) -> dict[Workload, str]:
    """Return workloads of a bundle with a codec, and each one's path."""
    zipped = [replace(body, content=gzip.compress(body.content)) for body in NPY_64.write(material)]
    images, refused = material.images, replace(NPY_1, images=0, read=lambda answer: {})
    return {
        replace(NPY_64, name="64 npy, gzip", coding="gzip", write=_sending(zipped)): "/encode",
        _scoring(bundle, images[:SCORED]): f"/score?samples={SCORE_SAMPLES}",
        _reconstructing(material): "/reconstruct",
        _streaming(bundle): f"/sample?n={STREAMED}&seed={SAMPLE_SEED}",
        _decompressing(bundle, images): "/decompress",
        _inferring(material): "/v2/models/encode/infer",
        replace(
            refused, name="no npy", status=400, write=_sending([Body(images[0].tobytes(), {})])
        ): "/encode",
        replace(
            refused, name="another size", status=422, write=_sending([Body(npy_bytes(images[:, 1:, 1:]), {})])
        ): "/encode",
    }


def _sending(bodies: Sequence[Body]) -> Callable[[Material], list[Body]]:
    return lambda material: list(bodies)


@torch.inference_mode()
def _scoring(bundle: Bundle, images: np.ndarray) -> Workload:
    rows = score(bundle.model, torch.from_numpy(images), SCORE_SAMPLES)
    expected = {name: row.numpy() for name, row in zip(SCORES, rows, strict=True)}
    sending = _sending([Body(npy_bytes(images), expected)])
    return Workload("scores", SCORED, 8, NPY, JSON, sending, _read_scores, tolerance=SCORE_TOLERANCE)


def _reconstructing(material: Material) -> Workload:
    rows = np.arange(SAMPLES) % len(material.images)
    sending = _sending([Body(npy_bytes(material.images[rows]), {"images": material.decoded[rows]})])
    return replace(SAMPLE_16, name="16 images back", method="POST", write=sending)


def _streaming(bundle: Bundle) -> Workload:
    prior, seed = bundle.latents, SAMPLE_SEED
    z = sample_latents(prior, "aggregated", seed=seed, offset=0, count=STREAMED, temperature=1.0)
    sending = _sending([Body(b"", {"images": direct_images(bundle, z)})])
    return replace(SAMPLE_16, name=f"{STREAMED} samples", images=STREAMED, connections=2, write=sending)


def _decompressing(bundle: Bundle, images: np.ndarray) -> Workload:
    codec = verified(bundle.path / FILE)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    bodies = [
        Body(compress(planes[n : n + 1], codec), {"images": images[n : n + 1]}) for n in range(len(images))
    ]
    return Workload("1 payload to npy", 1, 8, PAYLOAD, NPY, _sending(bodies), read_images, tolerance=0)


def _inferring(material: Material) -> Workload:
    def bodies() -> Iterator[Body]:
        for n, image in enumerate(material.images):
            data, shape = image.ravel().tolist(), (1, *image.shape)
            tensor = {"name": "images", "datatype": "UINT8", "shape": shape, "data": data}
            expected = {name: array[n : n + 1] for name, array in material.posterior.items()}
            yield Body(json.dumps({"inputs": [tensor]}).encode(), expected)

    return Workload("1 in JSON of v2", 1, 32, JSON, JSON, _sending([*bodies()]), _read_outputs)


def _read_scores(answer: bytes) -> Arrays:
    document = json.loads(answer)
    return {name: np.array(document[name], np.float32) for name in SCORES}


def _read_outputs(answer: bytes) -> Arrays:
    outputs = json.loads(answer)["outputs"]
    return {each["name"]: np.array(each["data"], np.float32).reshape(each["shape"]) for each in outputs}
