"""Load that keeps account: clients in closed loops, and the fate of each request that they sent."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

import numpy as np

from benchmarks.serving.golden import golden_images
from benchmarks.serving.material import direct_images, direct_posterior
from benchmarks.serving.workloads import npy_bytes
from models.bundle import bundle_path, load_bundle
from models.priors import sample_latents

Fate = Literal[
    "answered",  # with what was asked for
    "wrong",  # with something else
    "refused",  # by a problem document with Retry-After
    "failed",  # by any other answer
    "turned_away",  # nobody listened: the connection was refused
    "lost",  # a connection that was taken ended without the whole answer, or was reset before its request
    "hung",  # nothing came within the time
]
AGAIN_SECONDS = 0.02  # between two tries to connect
MAX_EXAMPLES = 5
TOLERANCE = 1e-4  # relative: batches round differently
SAMPLES, SEED, LEVEL = 100, 7, 1  # several batches of the service, which are streamed one after the other


@dataclass(frozen=True)
class Question:
    """A request, and whether its answer is right."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    is_right: Callable[[bytes], bool]


@dataclass
class Tally:
    """What became of requests, and the longest that one took to come to it."""

    fates: Counter[Fate] = field(default_factory=Counter)
    worst_seconds: float = 0.0
    examples: Counter[str] = field(default_factory=Counter)  # of what should not have happened
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, fate: Fate, seconds: float, what: str = "") -> None:
        """Count a request."""
        with self._lock:
            self.fates[fate] += 1
            self.worst_seconds = max(self.worst_seconds, seconds)
            if what:
                self.examples[what] += 1

    def add(self, other: Tally) -> None:
        """Count what another counted."""
        self.fates += other.fates
        self.worst_seconds = max(self.worst_seconds, other.worst_seconds)
        self.examples += other.examples

    def count(self, *fates: Fate) -> int:
        """Return how many had one of these fates."""
        return sum(self.fates[fate] for fate in fates)

    def document(self) -> dict[str, object]:
        """Return the tally as JSON has it."""
        return {
            "requests": sum(self.fates.values()),
            **dict(sorted(self.fates.items())),
            "worst_seconds": round(self.worst_seconds, 3),
            "examples": dict(self.examples.most_common(MAX_EXAMPLES)),
        }


def questions_of(bundle: str) -> list[Question]:
    """Return requests for a bundle whose answers are known: some images to encode, and many samples."""
    loaded = load_bundle(bundle_path(bundle))
    images = golden_images(loaded)
    posterior = direct_posterior(loaded, images)
    expected = np.stack([posterior["mu"], posterior["logvar"]], axis=1)
    npy = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    z = sample_latents(loaded.latents, "aggregated", seed=SEED, offset=0, count=SAMPLES, temperature=1.0)
    path, samples = f"/sample?n={SAMPLES}&seed={SEED}", within_a_level(direct_images(loaded, z))

    def encoding(rows: slice) -> Question:
        return Question("POST", "/encode", npy_bytes(images[rows]), npy, nearly(expected[rows]))

    few = min(16, len(images))
    return [
        encoding(slice(0, 1)),
        encoding(slice(0, few)),
        Question("GET", path, b"", npy, samples),
        encoding(slice(few - 1, few)),
    ]


def nearly(expected: np.ndarray) -> Callable[[bytes], bool]:
    """Return what tells whether an .npy file holds an array, but for rounding."""
    return within(expected, TOLERANCE * float(np.abs(expected).max()))


def within_a_level(expected: np.ndarray) -> Callable[[bytes], bool]:
    """Return what tells whether an .npy file holds images, each level but for its rounding."""
    return within(expected.astype(np.int16), LEVEL)


def within(expected: np.ndarray, limit: float) -> Callable[[bytes], bool]:
    """Return what tells whether an .npy file holds an array, but for so much; expected is signed."""

    def is_right(body: bytes) -> bool:
        try:
            found = np.load(BytesIO(body), allow_pickle=False)
        except (ValueError, EOFError):
            return False
        return found.shape == expected.shape and bool(np.abs(found - expected).max() <= limit)

    return is_right


class Client:
    """One client: the next request once the last has met its fate."""

    def __init__(self, port: int, timeout: float, keeps_connection: bool) -> None:
        self._port, self._timeout, self._keeps = port, timeout, keeps_connection
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, question: Question) -> tuple[Fate, float, str]:
        """Send a request; return its fate, the seconds to it, and what should not have happened."""
        begun = time.perf_counter()
        fate, what = self._ask(question)
        if fate not in ("answered", "refused") or not self._keeps:
            self.close()
        return fate, time.perf_counter() - begun, what and f"{question.path}: {what}"

    def _ask(self, question: Question) -> tuple[Fate, str]:
        is_kept = self._connection is not None
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
            try:
                self._connection.connect()
            except ConnectionRefusedError:
                return "turned_away", ""
            except TimeoutError:
                return "hung", "the connection was not taken"
            except OSError as error:  # the kernel had taken it, or could not be asked
                return "lost", f"{error!r} while connecting"
        try:
            self._connection.request(
                question.method, question.path, question.body or None, dict(question.headers)
            )
            response = self._connection.getresponse()
            body = response.read()
        except TimeoutError as error:
            return "hung", repr(error)
        except (OSError, http.client.HTTPException) as error:
            return "lost", f"{error!r} on a connection that was {'kept' if is_kept else 'new'}"
        if response.will_close:
            self.close()
        if response.status == 200:
            return ("answered", "") if question.is_right(body) else ("wrong", "another answer")
        if response.status in (429, 503) and response.headers.get("Retry-After"):
            return "refused", ""
        return "failed", f"{response.status} {body[:200]!r}"

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def loaded(port: int, questions: Sequence[Question], clients: int, timeout: float) -> Iterator[Tally]:
    """Have clients ask until the block is left; half of them keep their connections, half open new ones.

    The tally is whole once the block is left: every request has met its fate.
    """
    tally, is_over = Tally(), threading.Event()

    def ask(number: int) -> None:
        client, turn = Client(port, timeout, keeps_connection=number % 2 == 0), number
        while not is_over.is_set():
            fate, seconds, what = client.ask(questions[turn % len(questions)])
            tally.note(fate, seconds, what)
            turn += 1
            if fate == "turned_away" or fate == "refused":
                is_over.wait(AGAIN_SECONDS)
        client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
