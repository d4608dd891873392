"""Long inputs: in order, read no further than needed, so many requests at once, ended cleanly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.app.test_routes import assert_close
from tests.client.conftest import Connect, Waits
from tests.client.test_retries import requests_of, wait_for
from tests.servers import Gate, Running, running
from vaeserve_client import AsyncClient, Client, InvalidRequest


class Read:
    """An iterable that counts what was taken of it."""

    def __init__(self, images: np.ndarray) -> None:
        self._images, self.count = images, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for image in self._images:
            self.count += 1
            yield image


def test_results_come_in_order_a_batch_each(client: Client, pixels: np.ndarray) -> None:
    whole = client.encode(pixels)
    for images in (pixels, list(pixels), iter(pixels), Read(pixels)):
        found = list(client.encode_all(images, batch=4, concurrency=2))
        assert [len(encoded) for encoded in found] == [4, 4, 2]
        assert_close(np.concatenate([encoded.mu for encoded in found]), whole.mu)


def test_every_operation_takes_long_inputs(client: Client, pixels: np.ndarray) -> None:
    mu = client.encode(pixels).mu
    for found in (
        client.reconstruct_all(pixels, batch=4),
        client.decode_all(mu, batch=4),
        client.decode_all(list(mu), batch=4),
    ):
        images = np.concatenate([part.pixels for part in found])
        assert np.abs(images.astype(int) - client.decode(mu).pixels).max() <= 1
    scores = list(client.score_all(pixels, samples=2, batch=4))
    assert [(len(part), part.samples) for part in scores] == [(4, 2), (4, 2), (2, 2)]
    assert_close(np.concatenate([part.nll for part in scores]), client.score(pixels, samples=2).nll)


def test_parameters_go_with_every_batch(client: Client, pixels: np.ndarray) -> None:
    options: dict[str, Any] = {"model": "colour", "fit": "resize", "batch": 4}
    assert [part.mu.shape for part in client.encode_all(pixels, **options)] == [(4, 3), (4, 3), (2, 3)]
    for part in client.reconstruct_all(pixels, **options):
        assert part.pixels.shape[1:] == (16, 12, 3)
    assert {part.model for part in client.score_all(pixels, **options)} == {"colour"}
    assert [len(part) for part in client.decode_all(np.zeros((5, 3)), model="colour", batch=4)] == [4, 1]


def test_a_long_sample_is_the_same_in_pages(client: Client) -> None:
    options: dict[str, Any] = {"temperature": 0.5, "prior": "standard", "model": "colour"}
    whole = client.sample(10, seed=7, offset=3, **options)
    pages = list(client.sample_all(10, seed=7, offset=3, batch=4, concurrency=2, **options))
    assert [(page.seed, page.offset, len(page)) for page in pages] == [(7, 3, 4), (7, 7, 4), (7, 11, 2)]
    difference = np.concatenate([page.pixels for page in pages]).astype(int) - whole.pixels
    assert np.abs(difference).max() <= 1


def test_pages_without_a_seed_are_of_one_seed(client: Client) -> None:
    first, second = client.sample_all(2, batch=1)
    assert first.seed == second.seed
    assert not np.array_equal(first.pixels, second.pixels)


def test_nothing_gives_nothing(client: Client) -> None:
    assert list(client.encode_all([])) == []
    assert list(client.sample_all(0)) == []


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"concurrency": 0}])
def test_wrong_sizes_are_refused_at_once(client: Client, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="both are at least 1"):
        client.encode_all([], **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "named"),
    [
        ("image.png", "str"),
        (Path("image.png"), "P[a-z]+Path"),
        (b"png", "bytes"),
        (bytearray(b"png"), "bytearray"),
        (PIL.Image.new("L", (8, 8)), "Image"),
        (np.zeros((8, 8), np.uint8), r"array of shape \(8, 8\)"),
        (BytesIO(b"png"), "BytesIO, an open file"),
    ],
)
def test_one_image_is_not_many(client: Client, one: Any, named: str) -> None:
    for method in (client.encode_all, client.reconstruct_all, client.score_all):
        with pytest.raises(
            TypeError, match=rf"^images of any number are .*; got one {named}: give a list of it"
        ):
            method(one)


def test_one_latent_is_not_many(client: Client) -> None:
    with pytest.raises(TypeError, match=r"latents of any number are .*; got one array of shape \(4,\): give"):
        client.decode_all(np.zeros(4))


def test_so_many_batches_are_under_way_and_the_input_is_read_no_further(
    connect: Connect, bundle_folder: Path, gate: Gate, pixels: np.ndarray
) -> None:
    images = Read(pixels)
    with running(bundle_folder, max_batch=2) as server, ThreadPoolExecutor(1) as pool:
        client = connect(server.url)
        found = pool.submit(lambda: list(client.encode_all(images, batch=2, concurrency=3)))
        gate.entered.acquire()
        wait_for(server, "queued 4 images")
        assert images.count == 6
        gate.opened.set()
        assert [len(encoded) for encoded in found.result()] == [2] * 5
    assert images.count == 10


def test_one_result_is_taken_and_one_batch_more_is_read(client: Client, pixels: np.ndarray) -> None:
    images = Read(pixels)
    with closing(client.encode_all(images, batch=1, concurrency=3)) as found:
        for taken in range(5):
            next(found)
            assert taken < images.count <= 3 + taken


def test_an_error_ends_it_after_the_results_before_it(
    connect: Connect, bundle_folder: Path, pixels: np.ndarray
) -> None:
    images = [*pixels[:4], np.zeros((3, 3), np.uint8), *pixels[:4]]
    with running(bundle_folder) as server:
        found = connect(server.url).encode_all(images, batch=2, concurrency=1)
        assert len(next(found)) == len(next(found)) == 2
        with pytest.raises(InvalidRequest, match="3×3"):
            next(found)
        assert list(found) == []
        assert (requests_of(server, 200), requests_of(server, 422)) == (2, 1)


class Waiting(threading.Event):
    """Set while a call waits, for ten seconds, before it tries again."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        waits.during = self._during  # type: ignore[method-assign]

    def _during(self) -> float:
        self.set()
        return 10.0


class Broken:
    """A path that fails once `waiting` is set."""

    def __init__(self, waiting: threading.Event) -> None:
        self._waiting = waiting

    def __fspath__(self) -> str:
        assert self._waiting.wait(30)
        raise LookupError("the path broke")


def test_an_error_ends_the_waits_of_the_others(
    connect: Connect, bundle_folder: Path, may_load: threading.Event, waits: Waits, pixels: np.ndarray
) -> None:
    images = [Broken(Waiting(waits)), pixels[0]]
    with running(bundle_folder) as server:
        with pytest.raises(LookupError, match="the path broke"):
            list(connect(server.url).encode_all(images, batch=1))
        may_load.set()
    assert requests_of(server, 503) == 1  # counted once the answer is sent, so by the server's end


def test_a_broken_input_is_an_error_after_the_answers_to_all_that_came_before(
    connect: Connect, live: Running, pixels: np.ndarray
) -> None:
    def broken(count: int) -> Iterator[np.ndarray]:
        yield from pixels[:count]
        raise LookupError("the input broke off")

    for count, sizes in ((0, []), (3, [2, 1]), (4, [2, 2])):
        found = connect(live.url).encode_all(broken(count), batch=2, concurrency=4)
        assert [len(next(found)) for _ in sizes] == sizes
        with pytest.raises(LookupError, match="broke off"):
            next(found)
        assert list(found) == []


@pytest.mark.anyio
async def test_a_broken_asynchronous_input_is_so_too(live: Running, pixels: np.ndarray) -> None:
    async def broken(count: int) -> AsyncIterator[np.ndarray]:
        for image in pixels[:count]:
            yield image
        raise LookupError("the input broke off")

    async with AsyncClient(live.url) as client:
        for count, sizes in ((0, []), (3, [2, 1]), (4, [2, 2])):
            found = client.encode_all(broken(count), batch=2, concurrency=4)
            assert [len(await anext(found)) for _ in sizes] == sizes
            with pytest.raises(LookupError, match="broke off"):
                await anext(found)


def test_an_answer_that_is_here_does_not_wait_for_the_input(bundle_folder: Path, pixels: np.ndarray) -> None:
    def slow() -> Iterator[np.ndarray]:
        yield pixels[0]
        while not requests_of(server, 200):
            server.thread.join(0.01)
        for _ in range(98):
            server.thread.join(0.01)
            taken.append(1)
            yield pixels[0]

    taken: list[int] = []
    with (
        running(bundle_folder) as server,
        Client(server.url) as client,
        closing(client.encode_all(slow(), batch=1, concurrency=99)) as found,
    ):
        next(found)
        assert len(taken) < 98


@pytest.mark.anyio
async def test_an_answer_is_given_while_the_input_is_waited_for(live: Running, pixels: np.ndarray) -> None:
    async def slow() -> AsyncIterator[np.ndarray]:
        async with asyncio.timeout(30):  # ends in the task that it begins in
            for image in pixels[:3]:
                yield image
                await taken.wait()
                taken.clear()

    taken = asyncio.Event()
    sizes = []
    async with AsyncClient(live.url) as client:
        async for encoded in client.encode_all(slow(), batch=1, concurrency=3):
            sizes.append(len(encoded))
            taken.set()
    assert sizes == [1, 1, 1]


@pytest.mark.anyio
async def test_closing_ends_an_input_that_is_waited_for(live: Running, pixels: np.ndarray) -> None:
    async def endless() -> AsyncIterator[np.ndarray]:
        try:
            yield pixels[0]
            await asyncio.Event().wait()
        finally:
            ended.set()

    ended = asyncio.Event()
    async with AsyncClient(live.url) as client, asyncio.timeout(30):
        async with aclosing(client.encode_all(endless(), batch=1)) as found:
            await anext(found)
        assert ended.is_set()


def test_the_end_of_the_loop_ends_the_requests(
    connect: Connect, bundle_folder: Path, pixels: np.ndarray
) -> None:
    with running(bundle_folder) as server:
        images = Read(pixels)
        with closing(connect(server.url).encode_all(images, batch=1, concurrency=2)) as found:
            next(found)
        assert images.count <= 2


@pytest.mark.parametrize("length", [10, None])
def test_a_progress_bar_is_shown_where_it_is_wanted(
    client: Client, pixels: np.ndarray, capsys: pytest.CaptureFixture[str], length: int | None
) -> None:
    list(client.encode_all(pixels, batch=4))
    assert capsys.readouterr().err == ""
    list(client.encode_all(pixels if length else iter(pixels), batch=4, progress=True))
    shown = capsys.readouterr().err
    assert ("10/10" if length else "10 images [") in shown
    assert "images/s" in shown


def test_no_bar_is_made_where_none_is_wanted(
    client: Client, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaeserve_client.batches.tqdm", None)  # each one has a thread that outlives it
    assert len(list(client.encode_all(pixels, batch=4))) == 3


@pytest.mark.anyio
async def test_an_input_may_be_asynchronous(live: Running, pixels: np.ndarray) -> None:
    async def arriving() -> AsyncIterator[np.ndarray]:
        for image in pixels:
            await asyncio.sleep(0)
            yield image

    async with AsyncClient(live.url) as client:
        whole = (await client.encode(pixels)).mu
        for batch in (4, 5):
            found = [encoded async for encoded in client.encode_all(arriving(), batch=batch)]
            assert_close(np.concatenate([encoded.mu for encoded in found]), whole)


@pytest.mark.anyio
async def test_closing_cancels_the_requests_on_their_way(
    bundle_folder: Path, gate: Gate, pixels: np.ndarray
) -> None:
    with running(bundle_folder, max_batch=1) as server:
        async with AsyncClient(server.url) as client, asyncio.timeout(30):
            async with aclosing(client.encode_all(pixels, batch=1, concurrency=3)) as found:
                first = asyncio.ensure_future(anext(found))
                while "queued 2 images" not in repr(server.service.batcher):
                    await asyncio.sleep(0.01)
                first.cancel()
                await asyncio.wait([first])
            while "queued 0 images" not in repr(server.service.batcher):
                await asyncio.sleep(0.01)
        gate.opened.set()
    assert requests_of(server, 200) == 0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
