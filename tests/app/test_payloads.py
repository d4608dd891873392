"""/compress and /decompress over HTTP: the library's payloads, in every format, and what they refuse."""

from __future__ import annotations

import base64
import gc
import shutil
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest

from app import service
from app.coding import OPERATIONS, CodingEngine
from app.operations import ModelTask, Operation
from app.rows import chunk_rows
from app.server import Server
from app.service import load_bundles
from app.settings import Settings
from codec.archive import pack
from codec.encoding import KINDS, LOSSLESS, Effort, Manner, compress, divided, encoded
from codec.model import FILE, CodecError, CodecModel, dumped
from codec.payload import Chunk, decompress, images_a_chunk, parsed, varint
from models.bundle import change_bundle
from models.images import decode_image, encode_png, encode_webp
from tests.app.test_routes import FORMATS, JSON, NPY, SAFETENSORS, base64_json, decoded, npy, problem
from tests.codecs import pictures
from tests.servers import Running, running
from tests.waiting import eventually

SOON = 30.0
PAYLOAD = "application/vnd.vaeserve.payload"
GREY = (1, 8, 8)


def in_place(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def compressed(client: httpx.Client, images: np.ndarray, **query: str) -> httpx.Response:
    """Compress images (N, C, H, W)."""
    params = {"format": "payload", **query}
    headers = {"Content-Type": NPY}
    return client.post("/compress", params=params, content=npy(in_place(images)), headers=headers)


def decompressed(client: httpx.Client, payload: bytes, **query: str | int) -> httpx.Response:
    params = {"format": "npy", **query}
    return client.post("/decompress", params=params, content=payload, headers={"Content-Type": PAYLOAD})


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("effort", KINDS)
@pytest.mark.parametrize("count", [1, 3, images_a_chunk(GREY) + 2])
def test_a_payload_is_the_library_s(
    client: httpx.Client, codec: CodecModel, count: int, effort: Effort
) -> None:
    images = pictures(GREY, count)
    response = compressed(client, images, effort=effort)
    assert response.status_code == 200
    assert response.headers["content-type"] == PAYLOAD
    assert response.content == compress(images, codec, Manner(effort))
    np.testing.assert_array_equal(decoded(decompressed(client, response.content), "npy"), in_place(images))


@pytest.mark.parametrize("shape", [GREY, (3, 9, 7)])
def test_no_level_differs_by_more_than_it_may(
    client: httpx.Client, codec: CodecModel, shape: tuple[int, int, int]
) -> None:
    images = pictures(shape, 3)
    response = compressed(client, images, effort="fast", max_error="3")
    assert response.content == compress(images, codec, Manner("fast", 3))
    found = decoded(decompressed(client, response.content), "npy")
    assert 0 < np.abs(found.astype(int) - in_place(images)).max() <= 3
    problem(compressed(client, images, max_error="128"), 422, "invalid", "less than or equal to 127, got 128")


def test_quality_and_target_bytes_are_the_library_s(client: httpx.Client, codec: CodecModel) -> None:
    images = pictures(GREY, 6)
    for query, manner in (
        ({"quality": "30"}, Manner(quality=30)),
        ({"quality": "30", "effort": "fast"}, Manner("fast", quality=30)),
        ({"target_bytes": "90"}, Manner(target_bytes=90)),
    ):
        response = compressed(client, images, **query)
        assert response.content == compress(images, codec, manner)
        assert response.headers["x-compressed-bytes"] == str(len(response.content))
        found = decoded(decompressed(client, response.content), "npy")
        expected = decompress(parsed(response.content, lambda _: codec))
        np.testing.assert_array_equal(found, in_place(expected))
        [one] = decoded(decompressed(client, response.content, index="4"), "npy")
        np.testing.assert_array_equal(one, found[4])


@pytest.mark.parametrize(
    ("images", "query", "message"),
    [
        (pictures(GREY, 1), {"quality": "0"}, "greater than or equal to 1, got 0"),
        (pictures(GREY, 1), {"quality": "100"}, "less than or equal to 99, got 100"),
        (pictures(GREY, 1), {"target_bytes": "0"}, "greater than or equal to 1, got 0"),
        (pictures(GREY, 1), {"target_bytes": "13"}, "target_bytes is 13; these images need "),
        (
            pictures(GREY, 1),
            {"quality": "50", "max_error": "2"},
            "max_error = 2 and quality = 50 together; one of them at most",
        ),
        (
            noise(1, 3, 9, 7),
            {"quality": "50"},
            "quality = 50 needs images of the model's shape 1×8×8, these are 3×9×7",
        ),
        (
            noise(1, 3, 9, 7),
            {"target_bytes": "50"},
            "target_bytes = 50 needs images of the model's shape 1×8×8, these are 3×9×7",
        ),
    ],
)
def test_a_loss_that_cannot_be_had_is_refused(
    client: httpx.Client, images: np.ndarray, query: dict[str, str], message: str
) -> None:
    problem(compressed(client, images, **query), 422, "invalid", message)


@pytest.mark.parametrize(
    "images", [pictures(GREY, 5), noise(5, *GREY), noise(3, 3, 20, 30), noise(1, 1, 1, 1)]
)
@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt != "png"])
def test_images_come_back_in_every_format(client: httpx.Client, images: np.ndarray, fmt: str) -> None:
    response = decompressed(client, compressed(client, images).content, format=fmt)
    assert response.status_code == 200
    np.testing.assert_array_equal(decoded(response, fmt), in_place(images))


@pytest.mark.parametrize("shape", [(4, 9, 7), (3, 9, 7), GREY])
def test_a_png_comes_back_as_a_png(client: httpx.Client, shape: tuple[int, int, int]) -> None:
    [image] = in_place(noise(1, *shape))
    headers = {"Content-Type": "image/png", "Accept": PAYLOAD}
    payload = client.post("/compress", content=encode_png(image), headers=headers).content
    response = decompressed(client, payload, format="png")
    np.testing.assert_array_equal(decode_image(response.content, 1 << 20, keep_alpha=True), image)


@pytest.mark.parametrize("images", [pictures(GREY, 2), noise(2, 4, 8, 8)])
def test_figures_are_in_the_headers_and_in_json(
    client: httpx.Client, codec: CodecModel, images: np.ndarray
) -> None:
    response = compressed(client, images, format="json")
    document = response.json()
    payload = base64.b64decode(document["payload"])
    is_learned = images.shape[1:] == GREY
    assert document["model"] == ("grey" if is_learned else None)
    assert payload == compress(images, codec)
    bits = 8 * len(payload) / images.size
    figures = {"original_bytes": images.size, "compressed_bytes": len(payload), "bits_per_dim": bits}
    assert {name: document[name] for name in figures} == figures
    for answer in (response, compressed(client, images)):
        assert answer.headers["x-original-bytes"] == str(images.size)
        assert answer.headers["x-compressed-bytes"] == str(len(payload))
        assert answer.headers["x-bits-per-dim"] == f"{bits:.4f}"
        assert "compute;dur=" in answer.headers["server-timing"]


def test_images_go_in_as_json_and_payloads_too(client: httpx.Client) -> None:
    images = in_place(pictures(GREY, 3))
    headers = {"Content-Type": JSON}
    document = client.post("/compress", content=base64_json(images), headers=headers).json()
    body = orjson.dumps({"payload": document["payload"]})
    response = client.post("/decompress", content=body, headers=headers)
    assert response.json()["model"] == "grey"
    np.testing.assert_array_equal(decoded(response, "json"), images)


def test_one_image_is_read_out_of_a_payload(client: httpx.Client) -> None:
    images = pictures(GREY, images_a_chunk(GREY) + 2)
    payload = compressed(client, images).content
    for index in (0, 5, len(images) - 1):
        response = decompressed(client, payload, index=index)
        np.testing.assert_array_equal(decoded(response, "npy"), in_place(images[index : index + 1]))
    detail = f"index is {len(images)}; the payload has {len(images)} images"
    problem(decompressed(client, payload, index=len(images)), 422, "invalid", detail)


def test_one_image_is_read_out_of_a_payload_without_a_model(client: httpx.Client) -> None:
    images = noise(3, 3, 5, 7)
    response = decompressed(client, compressed(client, images).content, index=2)
    np.testing.assert_array_equal(decoded(response, "npy"), in_place(images[2:]))


def test_images_are_read_out_of_an_archive(client: httpx.Client, codec: CodecModel) -> None:
    small, large = in_place(pictures(GREY, 3)), in_place(noise(2, 3, 5, 7))
    archive = pack([*small, *large], list("abcde"), codec)
    for index, image in enumerate([*small, *large]):
        np.testing.assert_array_equal(decoded(decompressed(client, archive, index=index), "npy"), image[None])
    problem(decompressed(client, archive, index=5), 422, "invalid", "index is 5; the payload has 5 images")
    problem(decompressed(client, archive), 422, "invalid", "an archive of 2 payloads")
    alone = pack(list(small), list("abc"), codec)
    np.testing.assert_array_equal(decoded(decompressed(client, alone), "npy"), small)


def test_an_archive_that_names_other_images_than_it_has_is_refused(
    client: httpx.Client, codec: CodecModel
) -> None:
    small, large = in_place(pictures(GREY, 1)), in_place(noise(1, 3, 5, 7))
    for names, payloads in (
        ([["a", "b"]], [compress(pictures(GREY, 1), codec)]),
        ([["a"], ["b"]], [compress(pictures(GREY, 2), codec), compress(noise(1, 3, 5, 7), None)]),
    ):
        index = zlib.compress(orjson.dumps(names))
        sizes = b"".join(varint(len(payload)) for payload in payloads)
        head = b"V\xc6\x1f" + varint(len(payloads)) + sizes + varint(len(index)) + index
        archive = head + zlib.crc32(head).to_bytes(4, "big") + b"".join(payloads)
        for query in ({"index": 0}, {"index": 1}, {}) if len(names) == 1 else ({"index": 0},):
            problem(decompressed(client, archive, **query), 400, "malformed", "the archive names ")
    assert decompressed(client, pack([*small, *large], ["a", "b"], codec), index=1).status_code == 200


@pytest.mark.parametrize(
    ("limit", "what"), [("MAX_ARCHIVE_PAYLOADS", "2 payloads"), ("MAX_INDEX_BYTES", "index")]
)
def test_archives_of_too_much_are_refused(
    client: httpx.Client, codec: CodecModel, limit: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"app.tasks.{limit}", 1)
    archive = pack([*in_place(pictures(GREY, 1)), *in_place(noise(1, 3, 5, 7))], ["a", "b"], codec)
    problem(decompressed(client, archive, index=0), 413, "too-large", what)


def test_bundles_may_have_the_same_codec(bundle_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_folder / "grey", tmp_path / "twin")
    with running(bundle_folder, models=(str(bundle_folder / "grey"), str(tmp_path / "twin"))) as server:
        payload = compressed(server.client, pictures(GREY, 1), model="grey").content
        for model in ("grey", "twin"):
            assert decompressed(server.client, payload, model=model).status_code == 200


def test_large_images_come_back(client: httpx.Client) -> None:
    images = noise(1, 3, 1300, 1100)
    document = compressed(client, images, format="json", effort="fast").json()
    response = decompressed(client, base64.b64decode(document["payload"]))
    np.testing.assert_array_equal(decoded(response, "npy"), in_place(images))


def test_the_command_line_reads_what_the_server_wrote(
    client: httpx.Client, bundle_folder: Path, tmp_path: Path
) -> None:
    images = pictures(GREY, 4)
    (tmp_path / "payload").write_bytes(compressed(client, images).content)
    model = str(bundle_folder / "grey")
    command = [sys.executable, "-m", "codec", "decompress", str(tmp_path / "payload"), "--model", model]
    subprocess.run([*command, "--to", str(tmp_path / "out.npy")], check=True, cwd=Path.cwd())
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), images)


def test_payloads_of_requests_that_share_a_batch_are_those_of_each_alone(codec: CodecModel) -> None:
    engine = CodingEngine({"grey": codec}, threads=2)
    jobs = [pictures(GREY, 1, seed=1), pictures(GREY, 7, seed=2), noise(2, *GREY), pictures(GREY, 1, seed=3)]
    parts = [chunk_rows(divided(images, codec, LOSSLESS)) for images in jobs]
    for manner in (LOSSLESS, Manner("fast"), Manner(max_error=2), Manner(quality=50)):
        task = ModelTask("grey", OPERATIONS[manner.effort], manner=manner)
        [streams] = engine.launch(task, parts).result()
        alone = [encoded([images], codec, manner)[0] for images in jobs]
        assert [stream.content for stream in streams] == [stream.content for stream in alone]
        assert [stream.is_classical for stream in streams] == [False, False, True, False]
    efforts: list[Effort] = ["best", "fast", "best", "fast"]
    payloads = [compress(images, codec, Manner(e)) for images, e in zip(jobs, efforts, strict=True)]
    chunks = [chunk_rows(parsed(payload, lambda _: codec).chunks) for payload in payloads]
    [found] = engine.launch(ModelTask("grey", Operation.DECOMPRESS), chunks).result()
    for images, expected in zip(found, jobs, strict=True):
        np.testing.assert_array_equal(images, expected)
    assert not engine.is_lost()


def test_what_one_request_has_in_the_threads_leaves_room_for_batches(codec: CodecModel) -> None:
    engine, may_end, begun = (
        CodingEngine({"grey": codec}, threads=2),
        threading.Event(),
        threading.Semaphore(0),
    )

    def wait(number: int) -> int:
        begun.release()
        assert may_end.wait(SOON)
        return number

    items = iter(range(100))
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(list, engine.each(time.monotonic() + SOON, wait, items))
        for _ in range(2):
            begun.acquire()
        batch = engine.launch(ModelTask("grey", Operation.COMPRESS), [chunk_rows([pictures(GREY, 1)])])
        assert next(items) == 2  # of which no more was taken
        may_end.set()
        assert len(batch.result()[0]) == 1
        assert found.result() == [number for number in range(100) if number != 2]


def test_nothing_more_is_coded_for_a_request_once_its_deadline_has_passed(codec: CodecModel) -> None:
    engine = CodingEngine({"grey": codec}, threads=1)
    with pytest.raises(TimeoutError, match="the deadline has passed"):
        list(engine.each(time.monotonic(), str, range(3)))


def test_a_damaged_payload_spoils_no_other_of_its_batch(client: httpx.Client, codec: CodecModel) -> None:
    images = [pictures(GREY, 1, seed=seed) for seed in range(8)]
    payloads = [compress(image, codec) for image in images]
    for damaged in (1, 4, 5):
        payloads[damaged] = payloads[damaged][:-1] + bytes([payloads[damaged][-1] ^ 1])
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda payload: decompressed(client, payload), payloads))
    for number, (image, response) in enumerate(zip(images, responses, strict=True)):
        if number in (1, 4, 5):
            problem(response, 400, "malformed", "the payload: images 0 … 0: ")
        else:
            np.testing.assert_array_equal(decoded(response, "npy"), in_place(image))


def test_damaged_payloads_leave_nothing_behind(client: httpx.Client, codec: CodecModel) -> None:
    payload = compress(pictures(GREY, 1), codec)
    for _ in range(20):
        problem(decompressed(client, payload[:-1]), 400, "malformed", "the payload: images 0 … 0: ")
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Chunk) and each.stream == payload[12:-1]]
    assert len(kept) <= 2  # those of the last batch, until the next


@pytest.fixture
def full_codec(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server whose codec codes one image and has another waiting, which is all that may."""
    entered, opened = threading.Semaphore(0), threading.Event()
    launch = CodingEngine.launch

    def held(engine: CodingEngine, task: ModelTask, parts: list[np.ndarray]) -> object:
        entered.release()
        assert opened.wait(30)
        return launch(engine, task, parts)

    monkeypatch.setattr(CodingEngine, "launch", held)
    with running(bundle_folder, max_queued_images=1) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(compressed, server.client, pictures(GREY, 1))]
        assert entered.acquire(timeout=30)
        answers.append(pool.submit(compressed, server.client, pictures(GREY, 1)))
        eventually(lambda: server.service.coder._batcher.is_full)
        yield server
        opened.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    "path",
    [
        "/compress",
        "/compress?model=grey",
        "/decompress",
        "/decompress?model=grey",
        "/v2/models/compress/infer",
        "/v2/models/grey.decompress/infer",
    ],
)
def test_a_full_codec_refuses_a_request_whose_body_has_not_come(full_codec: Running, path: str) -> None:
    answer, url = b"", full_codec.client.base_url
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".encode())
        while b"}" not in answer:
            answer += connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 1\r\n" in answer.lower()


def test_a_full_codec_refuses_nothing_that_is_known_not_to_need_it(full_codec: Running) -> None:
    client, images = full_codec.client, pictures(GREY, 1)
    assert compressed(client, images, target_bytes="1000").status_code == 200
    assert compressed(client, images, model="colour").status_code == 200
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [7]}
    answer = client.post("/v2/models/colour.compress/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200


def test_what_is_coded_is_counted(bundle_folder: Path) -> None:
    with running(bundle_folder) as server:
        payload = compressed(server.client, pictures(GREY, 1100)).content
        decompressed(server.client, payload)
        value = server.service.metrics.registry.get_sample_value
        for operation in ("compress", "decompress"):
            assert value("vae_images_total", {"model": "grey", "operation": operation}) == 1100
        assert value("vae_batch_images_sum", {"queue": "codec"}) == 2200
        decompressed(server.client, compressed(server.client, noise(3, 3, 5, 7)).content)
        for operation in ("compress", "decompress"):
            assert value("vae_images_total", {"model": "classical", "operation": operation}) == 3
        assert value("vae_compute_duration_seconds_count", {"queue": "classical"}) == 2


# Errors


def test_every_truncation_and_flipped_bit_is_refused(client: httpx.Client, codec: CodecModel) -> None:
    payload = compress(pictures(GREY, 1), codec)
    for size in range(len(payload)):
        response = decompressed(client, payload[:size])
        assert response.status_code in (400, 409), size
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        response = decompressed(client, bytes(damaged))
        assert response.status_code in (400, 409, 413), bit
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("payload", "status", "slug", "detail"),
    [
        (b"", 400, "malformed", "the body is empty"),
        (b"\x89PNG", 400, "malformed", "the payload: not a payload: it does not begin with 56 c6"),
        (b"V\xc6\x31", 400, "malformed", "the payload: version 3 is not known here, only 1 and 2"),
        (b"V\xc6\x1e", 400, "malformed", "the payload: kind 14 is not known here"),
        (b"V\xc6\x1f\x01", 400, "malformed", "the payload: ends after 4 bytes"),
        (
            b"V\xc6\x11abcd\x01",
            409,
            "other-model",
            "the payload was made with model 61626364, which is not at hand; loaded are grey (",
        ),
        (
            b"V\xc6\x10\x01\x80\x40\x80\x40\x01abcd",
            413,
            "too-large",
            "the images decode to 67108864 bytes; the limit is 33554432",
        ),
        (b"V\xc6\x10\x01\x01\x01\x81\x20abcd", 413, "too-large", "4097 images; the limit is 4096 a request"),
    ],
)
def test_what_is_wrong_with_a_payload_is_said(
    bundle_folder: Path, payload: bytes, status: int, slug: str, detail: str
) -> None:
    with running(bundle_folder, max_pixels=1 << 20) as server:
        problem(decompressed(server.client, payload), status, slug, detail)


def test_a_payload_of_another_model_is_refused(
    bundle_folder: Path, other_folder: Path, other_codec: CodecModel
) -> None:
    payload = compress(pictures(other_codec.config.shape, 1), other_codec)
    models = (str(bundle_folder / "grey"), str(other_folder))
    with running(bundle_folder) as server:
        problem(decompressed(server.client, payload), 409, "other-model", "which is not at hand")
    with running(bundle_folder, models=models) as server:
        assert decompressed(server.client, payload).status_code == 200
        assert decompressed(server.client, payload, model="other").status_code == 200
        detail = "the payload is of model other, not of grey"
        problem(decompressed(server.client, payload, model="grey"), 409, "other-model", detail)
        problem(decompressed(server.client, payload, model="nope"), 404, "unknown-model")


@pytest.mark.parametrize(
    ("body", "status", "slug", "detail"),
    [
        (b"[]", 422, "invalid", 'the body is not of the form {"payload": "…"}'),
        (b'{"payload": 1}', 422, "invalid", "payload is 1; expected a payload in base64"),
        (b'{"payload": "&"}', 422, "invalid", "payload is not base64"),
        (b"{", 400, "malformed", "the body is not JSON"),
    ],
)
def test_what_is_wrong_with_a_payload_in_json_is_said(
    client: httpx.Client, body: bytes, status: int, slug: str, detail: str
) -> None:
    response = client.post("/decompress", content=body, headers={"Content-Type": JSON})
    problem(response, status, slug, detail)


def test_bodies_of_other_types_are_refused(client: httpx.Client) -> None:
    response = client.post("/decompress", content=b"x", headers={"Content-Type": NPY})
    problem(response, 415, "unsupported-media-type", f"supported are {PAYLOAD}, {JSON}")
    response = client.post("/compress", content=b"x", headers={"Content-Type": PAYLOAD})
    problem(response, 415, "unsupported-media-type", SAFETENSORS)


def test_images_of_several_shapes_are_refused(client: httpx.Client) -> None:
    encoded = [base64.b64encode(encode_png(image)).decode() for image in (noise(8, 8, 1), noise(8, 8, 3))]
    response = client.post("/compress", json={"images": encoded})
    problem(response, 422, "invalid", "images[0] is 8×8×1 and images[1] is 8×8×3", "images of one shape")


def test_a_side_that_is_too_long_is_refused(client: httpx.Client) -> None:
    response = compressed(client, np.zeros((1, 1, 1, 8193), np.uint8))
    problem(response, 422, "invalid", "shape 1×1×8193 is outside 1, 3 or 4 channels, sides of 1 … 8192")


def test_alpha_is_for_payloads_alone(client: httpx.Client) -> None:
    images = npy(in_place(noise(1, 4, 8, 8)))
    problem(client.post("/encode", content=images, headers={"Content-Type": NPY}), 422, "invalid")
    problem(compressed(client, noise(1, 2, 8, 8)), 422, "invalid", "(N, H, W, 4)")


def test_a_sheet_of_too_many_images_is_refused(client: httpx.Client) -> None:
    payload = compressed(client, pictures(GREY, 1025)).content
    detail = "1025 images as png; a contact sheet shows at most 1024"
    problem(decompressed(client, payload, format="png"), 422, "invalid", detail)
    assert decompressed(client, payload, format="png", index=3).status_code == 200


def test_other_formats_are_refused(client: httpx.Client) -> None:
    problem(compressed(client, pictures(GREY, 1), format="png"), 422, "invalid", "json, payload")
    problem(compressed(client, pictures(GREY, 1), model="nope"), 404, "unknown-model")
    headers = {"Content-Type": "image/png", "Accept": PAYLOAD}
    response = client.post("/encode", content=encode_png(noise(8, 8, 1)), headers=headers)
    problem(response, 406, "not-acceptable")


def test_a_bundle_without_a_codec_compresses_classically(live: Running) -> None:
    images = pictures((3, 16, 12), 2)
    response = compressed(live.client, images, model="colour")
    assert response.content == compress(images, None)
    assert compressed(live.client, images, model="colour", format="json").json()["model"] is None


def test_a_codec_that_this_machine_runs_otherwise_stops_the_start(
    bundle_folder: Path, tmp_path: Path, codec: CodecModel
) -> None:
    shutil.copytree(bundle_folder / "grey", tmp_path / "grey")
    other = replace(codec, golden=codec.golden._replace(levels=codec.golden.levels ^ 1))
    change_bundle(tmp_path / "grey", {FILE: dumped(other)})
    server = Server(Settings(models=(str(tmp_path / "grey"),), port=0, device="cpu", log_level="error"))
    server.run()
    fault = server.app.state.service.load_fault
    assert isinstance(fault, CodecError)
    assert fault.faults == [
        "golden.stream: the golden images make another stream here",
        "golden.stream: it makes other images here",
        "golden.fast_stream: the golden images make another stream here",
        "golden.fast_stream: it makes other images here",
        "golden.lossy_stream: the golden images make another stream here",
    ]
    assert server.exit_status() == 1


def test_payloads_are_not_read_while_models_load(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    monkeypatch.setattr(service, "load_bundles", lambda names: may_load.wait(30) and load_bundles(names))
    server = Running(Settings(models=(str(bundle_folder / "grey"),), port=0, log_level="error", threads=1))
    try:
        problem(decompressed(server.client, b"V\xc6"), 503, "not-ready", "the service is loading")
        may_load.set()
        server.wait_until_ready()
    finally:
        may_load.set()
        server.stop()


# beside other formats


@pytest.mark.parametrize("shape", [GREY, (3, 5, 7), (4, 6, 6)])
def test_what_png_and_webp_files_would_take_is_told_where_it_is_asked_for(
    client: httpx.Client, shape: tuple[int, int, int]
) -> None:
    images = noise(2, *shape)
    plain = compressed(client, images, format="json")
    answer = compressed(client, images, format="json", compare="true")
    png = sum(len(encode_png(image, is_smallest=True)) for image in in_place(images))
    webp = sum(len(encode_webp(image)) for image in in_place(images))
    assert answer.json() == {**plain.json(), "png_bytes": png, "webp_bytes": webp}
    payload = compressed(client, images, compare="true")
    assert payload.content == compressed(client, images).content
    for response in (answer, payload):
        assert (response.headers["x-png-bytes"], response.headers["x-webp-bytes"]) == (str(png), str(webp))
    assert "x-png-bytes" not in plain.headers


def test_many_images_are_not_made_into_files_to_compare(client: httpx.Client) -> None:
    images = np.zeros((256, *GREY), np.uint8)
    assert compressed(client, images, compare="true").status_code == 200
    more = np.zeros((1, 1, 128, 129), np.uint8)
    detail = "compare of 16512 levels; the limit is 16384"
    problem(compressed(client, more, compare="true"), 422, "invalid", detail)
    assert compressed(client, more).status_code == 200
