"""Damaged payloads: every single bit flipped, every length cut off, sent to the service."""

from __future__ import annotations

from benchmarks.faults.bundles import flipped
from benchmarks.faults.found import Row, Setup
from benchmarks.faults.load import Client, Question
from benchmarks.faults.service import ready_service
from benchmarks.serving.golden import golden_images
from benchmarks.serving.workloads import npy_bytes
from models.bundle import bundle_path, load_bundle

PAYLOAD = "application/vnd.vaeserve.payload"
NPY = "application/x-npy"
MANNERS = ("", "&effort=fast", "&max_error=2", "&quality=50", "&target_bytes=60")
TIMEOUT_SECONDS = 60.0


def run(setup: Setup) -> list[Row]:
    """Make a payload in each manner, and ask for the images of every damaged one."""
    image = golden_images(load_bundle(bundle_path(setup.bundle)))[:1]
    rows = []
    with ready_service(setup, {"VAE_THREADS": "1"}) as service:
        headers = {"Content-Type": NPY}
        for manner in MANNERS:
            made = service.ask("POST", f"/compress?format=payload{manner}", npy_bytes(image), headers)
            reading = {"Content-Type": PAYLOAD, "Accept": NPY}
            right = service.ask("POST", "/decompress", made.body, reading).body
            rows.append(damaged(setup, service.port, manner.lstrip("&") or "effort=best", made.body, right))
            print(rows[-1].document(), flush=True)
    return rows


def damaged(setup: Setup, port: int, manner: str, payload: bytes, right: bytes) -> Row:
    """Send every flip and every cut; count what is refused, harmless, wrong, or no answer of the kind."""
    client = Client(port, TIMEOUT_SECONDS, keeps_connection=True)
    found = {"refused": 0, "harmless": 0, "wrong": 0, "neither": 0}
    cases = [flipped(payload, bit) for bit in range(8 * len(payload))]
    cases += [payload[:length] for length in range(len(payload))]
    cases = cases[:: max(1, round(1 / setup.scale))]
    worst = 0.0
    headers = {"Content-Type": PAYLOAD, "Accept": NPY}
    examples = []
    for case in cases:
        question = Question("POST", "/decompress", case, headers, lambda body: body == right)
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
        {"payload_bytes": len(payload), **found, "worst_seconds": round(worst, 3), "examples": examples[:5]},
        {
            "no wrong answer": found["wrong"] == 0,
            "every one is refused with a problem": found["refused"] == len(cases),
        },
    )
