"""The asyncio client."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from functools import partial

from numpy.typing import ArrayLike

from vaeserve_client import calls
from vaeserve_client.async_sending import AsyncSender
from vaeserve_client.attempts import NO_RETRIES, UNTIL_READY, is_out
from vaeserve_client.bodies import Image, Images, Payload, many_images, many_latents
from vaeserve_client.calls import Effort, Fit, Prior
from vaeserve_client.errors import VaeserveError
from vaeserve_client.exchange import RANDOM_SEED_BITS
from vaeserve_client.results import Compressed, Encoded, Model, Models, Pictures, Samples, Scores


class AsyncClient(AsyncSender):
    """Asks one service, as Client does, from one event loop: its connections are of the loop that opens them.

    Each asyncio.run, and each thread that runs a loop, makes a client of its own.
    """

    async def encode(
        self,
        images: Images,
        *,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Encoded:
        """Encode images to mu and logvar of q(z given x)."""
        return await self._ask_with(partial(calls.encode, model=model, fit=fit), images, timeout)

    async def decode(
        self, latents: ArrayLike, *, model: str | None = None, timeout: float | None = None
    ) -> Pictures:
        """Decode latents (N, D) to images, the means of p(x given z)."""
        return await self._ask_with(partial(calls.decode, model=model), latents, timeout)

    async def reconstruct(
        self,
        images: Images,
        *,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Pictures:
        """Send images through mu and back: what the model keeps of them."""
        return await self._ask_with(partial(calls.reconstruct, model=model, fit=fit), images, timeout)

    async def score(
        self,
        images: Images,
        *,
        samples: int | None = None,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> Scores:
        """Score images by bounds on log p(x), the nll from `samples` latent samples an image."""
        return await self._ask_with(
            partial(calls.score, samples=samples, model=model, fit=fit), images, timeout
        )

    async def sample(
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
        return await self._ask(call, timeout)

    async def compress(
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
        return await self._ask_with(build, images, timeout)

    async def decompress(
        self,
        payload: Payload,
        *,
        index: int | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Pictures:
        """Return the images of a payload, or the one at `index`; with `model`, of that model alone."""
        return await self._ask_with(partial(calls.decompress, index=index, model=model), payload, timeout)

    async def models(self, *, timeout: float | None = None) -> Models:
        """Return what is loaded."""
        return await self._ask(calls.models(), timeout)

    async def model(self, id: str, *, timeout: float | None = None) -> Model:
        """Return the description of one loaded model."""
        return await self._ask(calls.model(id), timeout)

    async def live(self, *, timeout: float | None = None) -> bool:
        """Return whether the service answers and can go on without a restart; asked once."""
        return await self._is_healthy("live", timeout)

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Return whether the service answers and takes requests now; asked once."""
        return await self._is_healthy("ready", timeout)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return once the service is ready; raise the last failure where it is not in time.

        It may be absent at first, or have a proxy before it that answers 5xx.
        """
        await self._ask(calls.health("ready"), timeout, UNTIL_READY)

    def encode_all(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Encoded, None]:
        """Encode images of any number, and yield a result for each `batch` of them, in order.

        An array is sliced; any other iterable, asynchronous or not, is read as results are taken, at most
        `concurrency` batches ahead. A failed request, or closing the iterator (contextlib.aclosing), cancels
        those on their way; an error of the iterable comes after the results for what it gave before.
        `timeout` holds for each batch.
        """
        build = partial(calls.encode, model=model, fit=fit)
        return self._ask_all(build, many_images(images), batch, concurrency, progress, timeout)

    def decode_all(
        self,
        latents: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Pictures, None]:
        """Decode latents of any number, as encode_all does images."""
        build = partial(calls.decode, model=model)
        return self._ask_all(build, many_latents(latents), batch, concurrency, progress, timeout)

    def reconstruct_all(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Pictures, None]:
        """Reconstruct images of any number, as encode_all encodes them."""
        build = partial(calls.reconstruct, model=model, fit=fit)
        return self._ask_all(build, many_images(images), batch, concurrency, progress, timeout)

    def score_all(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        samples: int | None = None,
        batch: int = 64,
        concurrency: int = 4,
        progress: bool = False,
        model: str | None = None,
        fit: Fit | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Scores, None]:
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
    ) -> AsyncGenerator[Samples, None]:
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

    async def _is_healthy(self, status: calls.Status, timeout: float | None) -> bool:
        try:
            return await self._ask(calls.health(status), timeout, NO_RETRIES)
        except VaeserveError as error:
            if not is_out(error):
                raise
            return False
