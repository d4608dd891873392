"""Codecs to test with, loaded as the service loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.chunk import verified
from codec.model import FILE, CodecModel
from tests.codecs import SHAPES, fitted


def loaded(kind: str, folder: Path) -> CodecModel:
    path = folder / f"{kind}-{FILE}"
    path.write_bytes(fitted(kind))
    return verified(path)


@pytest.fixture(scope="session")
def codecs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codecs")


@pytest.fixture(params=SHAPES, scope="session")
def codec(request: pytest.FixtureRequest, codecs_folder: Path) -> CodecModel:
    return loaded(request.param, codecs_folder)


@pytest.fixture(scope="session")
def grey(codecs_folder: Path) -> CodecModel:
    return loaded("grey", codecs_folder)


@pytest.fixture(scope="session")
def rgb(codecs_folder: Path) -> CodecModel:
    return loaded("rgb", codecs_folder)


@pytest.fixture(scope="session")
def alone(codecs_folder: Path) -> CodecModel:
    return loaded("alone", codecs_folder)
