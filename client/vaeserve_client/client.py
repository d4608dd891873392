"""The blocking client."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable
from functools import partial

from numpy.typing import ArrayLike

from vaeserve_client import calls
from vaeserve_client.attempts import NO_RETRIES, UNTIL_READY, is_out
from vaeserve_client.bodies import Image, Images, Payload, many_images, many_latents
from vaeserve_client.calls import Effort, Fit, Prior
from vaeserve_client.errors import VaeserveError
from vaeserve_client.exchange import RANDOM_SEED_BITS
from vaeserve_client.results import Compressed, Encoded, Model, Models, Pictures, Samples, Scores
from vaeserve_client.sending import Sender


class Client(Sender):
    """Asks one service. Threads may share a client; each connection that it opens is kept for the next call.

    `timeout` is in seconds and holds for a whole call: reading and encoding what is given, retries and their
    waits; every method takes its own. `headers` go with every request, and `transport` takes the place of
    httpx's own, for proxies, certificates or sockets. In methods, `model` is the id of a loaded model, the
    default one if absent, and `fit` says how images of another size are brought to the model's, which are
    refused if absent.
    """

    def encode(
        self,
        images: Images,
        *,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Encoded:
        """Encode images to mu and logvar of q(z given x)."""
        return self._ask_with(partial(calls.encode, model=model, fit=fit), images, timeout)

    def decode(
        self, latents: ArrayLike, *, model: str | None = None, timeout: float | None = None
    ) -> Pictures:
        """Decode latents (N, D) to images, the means of p(x given z)."""
        return self._ask_with(partial(calls.decode, model=model), latents, timeout)

    def reconstruct(
        self,
        images: Images,
        *,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Pictures:
        """Send images through mu and back: what the model keeps of them."""
        return self._ask_with(partial(calls.reconstruct, model=model, fit=fit), images, timeout)

    def score(
        self,
        images: Images,
        *,
        samples: int | None = None,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Scores:
        """Score images by bounds on log p(x), the nll from `samples` latent samples an image."""
        return self._ask_with(partial(calls.score, samples=samples, model=model, fit=fit), images, timeout)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        offset: int = 0,
        temperature: float = 1.0,
        prior: Prior = "aggregated",
        latents: bool = False,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Samples:
        """Draw images from a prior: those from `offset` on of a seed, a random one if absent.

        With `latents` the answer has them too, and comes as PNG files in JSON: slower, for few images.
        """
        call = calls.sample(
            n,
            seed=seed,
            offset=offset,
            temperature=temperature,
            prior=prior,
            has_latents=latents,
            model=model,
        )
        return self._ask(call, timeout)

    def compress(
        self,
        images: Images,
        *,
        effort: Effort = "best",
        max_error: int = 0,
        quality: int | None = None,
        target_bytes: int | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Compressed:
        """Compress images of one shape, without loss unless one of the other parameters asks for less."""
        build = partial(
            calls.compress,
            effort=effort,
            max_error=max_error,
            quality=quality,
            target_bytes=target_bytes,
            model=model,
        )
        return self._ask_with(build, images, timeout)

    def decompress(
        self,
        payload: Payload,
        *,
        index: int | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Pictures:
        """Return the images of a payload, or the one at `index`; with `model`, of that model alone."""
        return self._ask_with(partial(calls.decompress, index=index, model=model), payload, timeout)

    def models(self, *, timeout: float | None = None) -> Models:
        """Return what is loaded."""
        return self._ask(calls.models(), timeout)

    def model(self, id: str, *, timeout: float | None = None) -> Model:
        """Return the description of one loaded model."""
        return self._ask(calls.model(id), timeout)

    def live(self, *, timeout: float | None = None) -> bool:
        """Return whether the service answers and can go on without a restart; asked once."""
        return self._is_healthy("live", timeout)

    def ready(self, *, timeout: float | None = None) -> bool:
        """Return whether the service answers and takes requests now; asked once."""
        return self._is_healthy("ready", timeout)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return once the service is ready; raise the last failure where it is not in time.

        It may be absent at first, or have a proxy before it that answers 5xx.
        """
        self._ask(calls.health("ready"), timeout, UNTIL_READY)

    def encode_all(
        self,
        images: Iterable[Image],
        *,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Generator[Encoded, None, None]:
        """Encode images of any number, and yield a result for each `batch` of them, in order.

        An array is sliced; any other iterable is read as results are taken, at most `concurrency` batches
        ahead. A failed request, or the end of the loop, begins no further one; an error of the iterable comes
        after the results for what it gave before. `timeout` holds for each batch.
        """
        build = partial(calls.encode, model=model, fit=fit)
        return self._ask_all(build, many_images(images), batch, concurrency, progress, timeout)

    def decode_all(
        self,
        latents: Iterable[ArrayLike],
        *,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Pictures, None, None]:
        """Decode latents of any number, as encode_all does images."""
        build = partial(calls.decode, model=model)
        return self._ask_all(build, many_latents(latents), batch, concurrency, progress, timeout)

    def reconstruct_all(
        self,
        images: Iterable[Image],
        *,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Generator[Pictures, None, None]:
        """Reconstruct images of any number, as encode_all encodes them."""
        build = partial(calls.reconstruct, model=model, fit=fit)
        return self._ask_all(build, many_images(images), batch, concurrency, progress, timeout)

    def score_all(
        self,
        images: Iterable[Image],
        *,
        samples: int | None = None,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Generator[Scores, None, None]:
        """Score images of any number, as encode_all encodes them."""
        build = partial(calls.score, samples=samples, model=model, fit=fit)
        return self._ask_all(build, many_images(images), batch, concurrency, progress, timeout)

    def sample_all(
        self,
        n: int,
        *,
        seed: int | None = None,
        offset: int = 0,
        temperature: float = 1.0,
        prior: Prior = "aggregated",
        batch: int = 1024,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Samples, None, None]:
        """Draw images of any number in pages of `batch`, at most `concurrency` of them held at once.

        The pages are those of one seed, a random one if absent, and the same as one answer with them all
        would have.
        """
        build = partial(
            calls.sample_page,
            seed=secrets.randbits(RANDOM_SEED_BITS) if seed is None else seed,
            temperature=temperature,
            prior=prior,
            model=model,
        )
        pages = range(offset, offset + n)
        return self._ask_all(build, pages, batch, concurrency, progress, timeout)

    def _is_healthy(self, status: calls.Status, timeout: float | None) -> bool:
        try:
            return self._ask(calls.health(status), timeout, NO_RETRIES)
        except VaeserveError as error:
            if not is_out(error):
                raise
            return False
