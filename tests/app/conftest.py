from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from codec.chunk import verified
from codec.model import FILE, CodecModel
from models.bundle import Bundle, change_bundle, load_bundle
from tests.bundles import save_small_bundle, small_config
from tests.codecs import SHAPES, fitted
from tests.servers import Running, running, save_grey_and_colour


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_grey_and_colour(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of another codec."""
    folder = tmp_path_factory.mktemp("other") / "other"
    save_small_bundle(folder, small_config(SHAPES["rgb"]))
    change_bundle(folder, {FILE: fitted("rgb")})
    return folder


@pytest.fixture(scope="session")
def codec(bundle_folder: Path) -> CodecModel:
    return verified(bundle_folder / "grey" / FILE)


@pytest.fixture(scope="session")
def other_codec(other_folder: Path) -> CodecModel:
    return verified(other_folder / FILE)


@pytest.fixture(scope="session")
def grey(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder / "grey")


@pytest.fixture(scope="session")
def colour(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder / "colour")


@pytest.fixture(scope="session")
def live(bundle_folder: Path) -> Iterator[Running]:
    with running(bundle_folder) as server:
        yield server


@pytest.fixture
def client(live: Running) -> httpx.Client:
    return live.client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
