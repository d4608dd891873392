"""Keys, hosts and origins: who may ask, and what the others are told."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.settings import Settings
from tests.app.test_routes import problem
from tests.servers import Running, running

ROOT = Path(__file__).parents[2]
KEYS = ("first-key-of-sixteen", "second-key-of-sixteen")
WITH_KEY = {"Authorization": f"Bearer {KEYS[0]}"}


@pytest.fixture(scope="module")
def guarded(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder, api_keys=KEYS) as server:
        yield server


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        WITH_KEY,
        {"Authorization": f"bearer {KEYS[1]}"},
        {"X-API-Key": KEYS[0]},
        {"Authorization": basic(KEYS[1])},
    ],
    ids=["bearer", "the other one", "x-api-key", "basic"],
)
@pytest.mark.parametrize("path", ["/sample", "/v2/models/encode", "/", "/docs", "/metrics", "/openapi.json"])
def test_one_of_the_keys_opens_every_address(guarded: Running, path: str, headers: dict[str, str]) -> None:
    assert guarded.client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEYS[0]}x"},
        {"Authorization": f"Bearer {KEYS[0][:-1]}"},
        {"Authorization": f"Token {KEYS[0]}"},
        {"Authorization": basic("nope")},
        {"Authorization": "Basic ?"},
        {"X-API-Key": ""},
        {"X-API-Key": ",".join(KEYS)},
    ],
)
@pytest.mark.parametrize("path", ["/sample", "/", "/metrics", "/nope", "/models/grey"])
def test_without_one_nothing_is_answered(guarded: Running, path: str, headers: dict[str, str]) -> None:
    answer = guarded.client.get(path, headers=headers)
    problem(answer, 401, "unauthorized", "a key is needed")
    assert answer.headers["www-authenticate"] == 'Basic realm="vaeserve", Bearer'
    assert answer.headers["x-request-id"]


def test_keys_are_not_logged(bundle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong, body = "wrong-key-of-sixteen", {"images": []}
    guarded = running(bundle_folder, api_keys=KEYS, access_log=True, log_level="debug")
    with caplog.at_level(logging.DEBUG), guarded as server:
        statuses = [
            server.client.post("/encode", json=body, headers=headers).status_code
            for key in (*KEYS, wrong)
            for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"})
        ]
    assert statuses == [422] * 4 + [401] * 2
    assert caplog.text.count("/encode") >= len(statuses)
    assert not [key for key in (*KEYS, wrong) if key in caplog.text]


def test_the_inference_protocol_says_it_in_its_own_form(guarded: Running) -> None:
    answer = guarded.client.get("/v2/models/encode")
    assert (answer.status_code, list(answer.json())) == (401, ["error"])


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"])
def test_health_needs_no_key(guarded: Running, path: str) -> None:
    assert guarded.client.get(path).status_code == 200
    assert guarded.client.get(path, headers={"Host": "10.0.0.7"}).status_code == 200


def test_metrics_are_open_where_that_is_set(bundle_folder: Path) -> None:
    with running(bundle_folder, api_keys=KEYS, open_metrics=True) as server:
        assert server.client.get("/metrics").status_code == 200
        assert server.client.get("/models").status_code == 401


def test_a_refused_body_is_not_read(guarded: Running) -> None:
    before = guarded.service.metrics.registry.get_sample_value("vae_request_bytes_total", {"route": "other"})
    assert guarded.client.post("/encode", content=bytes(1 << 20)).status_code == 401
    after = guarded.service.metrics.registry.get_sample_value("vae_request_bytes_total", {"route": "other"})
    assert after == before


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:9", "[::1]", "[::1]:8000"])
def test_its_own_names_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "10.0.0.7", ""])
def test_another_name_is_refused(client: httpx.Client, host: str) -> None:
    answer = client.get("/models", headers={"Host": host})
    found = problem(answer, 421, "misdirected", "VAE_ALLOWED_HOSTS are localhost, 127.0.0.1, [::1]")
    assert found.get("value", "") == host


def test_any_name_is_answered_where_that_is_set(bundle_folder: Path) -> None:
    with running(bundle_folder, allowed_hosts=("*",)) as server:
        assert server.client.get("/models", headers={"Host": "vae.example"}).status_code == 200
    with running(bundle_folder, allowed_hosts=("*",), api_keys=KEYS) as server:
        answer = server.client.get("/models", headers={"Host": "vae.example", **WITH_KEY})
        assert answer.status_code == 200


def test_pages_of_other_origins_are_told_nothing_unless_set(client: httpx.Client) -> None:
    answer = client.get("/models", headers={"Origin": "https://app.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_an_origin_that_is_set_may_ask(bundle_folder: Path) -> None:
    origin = {"Origin": "https://app.example"}
    with running(bundle_folder, api_keys=KEYS, cors_origins=("https://app.example",)) as server:
        asked = {
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key",
        }
        preflight = server.client.options("/encode", headers=asked)
        answer = server.client.get("/sample", headers={**origin, **WITH_KEY})
        other = server.client.get("/sample", headers={"Origin": "https://evil.example", **WITH_KEY})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in other.headers


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEYS[1]}  # of the batch job\n\n")
    settings = Settings(api_keys=(KEYS[0],), api_keys_file=file)  # type: ignore[arg-type]
    assert settings.keys() == [*KEYS]
    assert KEYS[0] not in repr(settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"# none\n", "has no key"),
        (b"short\n", "has 5; a key has at least 16 characters"),
    ],
)
def test_a_file_without_good_keys_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValidationError, match=words):
        Settings(api_keys_file=file)


@pytest.mark.parametrize("variables", [{"VAE_API_KEYS": "short-key"}, {"VAE_API_KEYS_FILE": "/nope"}])
def test_a_wrong_key_stops_the_start_and_is_not_shown(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "short-key" not in done.stderr
