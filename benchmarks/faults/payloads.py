"""Damaged payloads: every single bit flipped, every length cut off, sent to the service."""

from __future__ import annotations

import numpy as np

from benchmarks.faults.bundles import flipped
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import Client, Question, within
from benchmarks.faults.service import ready_service
from benchmarks.serving.golden import golden_images
from benchmarks.serving.workloads import npy_bytes
from codec.archive import pack
from codec.chunk import verified
from codec.model import FILE
from models.bundle import bundle_path, load_bundle

PAYLOAD = "application/vnd.vaeserve.payload"
NPY = "application/x-npy"
MANNERS = ("", "&effort=fast", "&max_error=2", "&quality=50", "&target_bytes=60")
ALL_BITS_BYTES = 512  # of a payload: of a larger one, so many bytes' worth of bits, evenly apart
ARCHIVED = 120  # images: two chunks of Fashion-MNIST's
LEVELS = {"&max_error=2": 2, "&quality=50": 40, "&target_bytes=60": 40}  # that may differ; 21 do, of loss
TIMEOUT_SECONDS = 60.0


def run(setup: Setup) -> list[Row]:
    """Make a payload in each manner, and ask for the images of every damaged one."""
    images = golden_images(load_bundle(bundle_path(setup.bundle)))
    model, image = verified(bundle_path(setup.bundle) / FILE), images[:1]
    rows = []
    with ready_service(setup, {"VAE_THREADS": "1"}) as service:
        headers = {"Content-Type": NPY}
        for manner in MANNERS:
            made = service.ask("POST", f"/compress?format=payload{manner}", npy_bytes(image), headers)
            limit = LEVELS.get(manner, 0)
            name = manner.lstrip("&") or "effort=best"
            rows.append(damaged(setup, service.port, name, made.body, image, limit))
            print(rows[-1].document(), flush=True)
        other = np.ascontiguousarray(np.pad(image, ((0, 0), (0, 3), (2, 0), (0, 0)), mode="edge"))
        made = service.ask("POST", "/compress?format=payload", npy_bytes(other), headers)
        rows.append(damaged(setup, service.port, "another shape, as WebP", made.body, other))
        print(rows[-1].document(), flush=True)
        many = images[np.arange(ARCHIVED) % len(images)]
        archive = pack(list(many), [f"{n}.png" for n in range(ARCHIVED)], model)
        rows.append(damaged(setup, service.port, "an archive of two chunks", archive, many, 0))
        print(rows[-1].document(), flush=True)
    return rows


def damaged(
    setup: Setup,
    port: int,
    manner: str,
    payload: bytes,
    images: np.ndarray,
    limit: int = 0,
) -> Row:
    """Send the whole, every flip and every cut; count what is refused, harmless, wrong, or none of these."""
    whole = Client(port, TIMEOUT_SECONDS, keeps_connection=False)
    answers: list[bytes] = []
    is_near = within(images.astype(np.int16), limit)

    def is_right(body: bytes) -> bool:
        answers.append(body)
        return is_near(body)

    reading = {"Content-Type": PAYLOAD, "Accept": NPY}
    control, _, said = whole.ask(Question("POST", "/decompress", payload, reading, is_right))
    right = answers[0] if answers else b""
    client = Client(port, TIMEOUT_SECONDS, keeps_connection=True)
    found = {"refused": 0, "harmless": 0, "wrong": 0, "neither": 0}
    stride = -(-len(payload) // ALL_BITS_BYTES)
    stride += stride > 1 and stride % 2 == 0  # odd, so that every bit of a byte has its turn
    cases = [flipped(payload, bit) for bit in range(0, 8 * len(payload), stride)]
    cases += [payload[:length] for length in range(0, len(payload), stride)]
    cases = cases[:: max(1, round(1 / setup.scale))]
    worst = 0.0
    examples = []
    for case in cases:
        question = Question("POST", "/decompress", case, reading, lambda body: body == right)
        fate, seconds, what = client.ask(question)
        worst = max(worst, seconds)
        is_refusal = fate == "failed" and f"{question.path}: 4" in what
        outcome = {"answered": "harmless", "wrong": "wrong"}.get(fate, "refused" if is_refusal else "neither")
        found[outcome] += 1
        if outcome != "refused":
            examples.append(f"{outcome}: {what}")
    client.close()
    return Row(
        f"a payload of {manner} with a bit flipped or its end cut off",
        len(cases),
        {},
        {
            "payload_bytes": len(payload),
            "of_bits_and_lengths_one_in": stride,
            **found,
            "undamaged": said or control,
            "worst_seconds": round(worst, 3),
            "examples": examples[:5],
        },
        {
            "the payload without damage gives the images that were sent": control == "answered",
            "no wrong answer": found["wrong"] == 0,
            "every one is refused with a problem": found["refused"] == len(cases),
        },
    )
