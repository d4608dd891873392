"""The command line: folders, files and arrays to one file and back, with faults said in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec import __main__ as command
from codec.archive import pack
from codec.encoding import Manner, compress
from codec.model import FILE, CodecModel, save_codec
from models.images import decode_image
from tests.codecs import SHAPES, pictures
from tests.disks import full_after
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bundle(grey: CodecModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, beside a folder of bundles with the one that the commands use by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "SHIPPED", tmp_path / "bundles")
    monkeypatch.setattr(command, "DEFAULT_MODEL", str(tmp_path / "bundles" / "tiny"))
    folder = tmp_path / "bundles" / "tiny"
    folder.mkdir(parents=True)
    (tmp_path / "bundles" / "without").mkdir()
    save_codec(folder / FILE, grey)
    return folder


def images_in(folder: Path) -> Path:
    (folder / "b").mkdir(parents=True)
    for i, image in enumerate(pictures(SHAPES["grey"], 7)[:, 0]):
        Image.fromarray(image).save(folder / f"{i}.png")
    rgba = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    Image.fromarray(rgba).save(folder / "b" / "alpha.webp", lossless=True, exact=True)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_comes_back_pixel_by_pixel(capsys: pytest.CaptureFixture[str]) -> None:
    folder = images_in(Path("in"))
    assert command.main(["compress", "in", "--to", "packed"]) == 0
    assert command.main(["info", "packed"]) == 0
    said = capsys.readouterr().out
    assert "archive of 8 images in 2 payload(s)" in said
    assert "best: 7 images of 1×8×8, 1 chunk(s)" in said
    assert "classical: 1 images of 4×9×7, 1 chunk(s)" in said
    assert command.main(["decompress", "packed", "--to", "out"]) == 0
    for i in range(7):
        np.testing.assert_array_equal(Image.open(f"out/{i}.png"), Image.open(folder / f"{i}.png"))
    np.testing.assert_array_equal(Image.open("out/b/alpha.webp.png"), Image.open(folder / "b/alpha.webp"))


def test_fast_payloads_are_written_on_request(grey: CodecModel) -> None:
    np.save("in.npy", pictures(SHAPES["grey"], 3))
    assert command.main(["compress", "in.npy", "--to", "packed", "--effort", "fast"]) == 0
    assert Path("packed").read_bytes() == compress(pictures(SHAPES["grey"], 3), grey, Manner("fast"))
    images_in(Path("in"))
    assert command.main(["compress", "in", "--to", "archive", "--effort", "fast"]) == 0
    assert command.main(["decompress", "archive", "--to", "out"]) == 0
    np.testing.assert_array_equal(Image.open("out/3.png"), Image.open("in/3.png"))


def test_levels_may_differ_on_request(grey: CodecModel, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(SHAPES["grey"], 3)
    np.save("in.npy", images)
    assert command.main(["compress", "in.npy", "--to", "packed", "--max-error", "4"]) == 0
    assert Path("packed").read_bytes() == compress(images, grey, Manner("best", 4))
    assert "max_error is 128" in fails(capsys, "compress", "in.npy", "--to", "x", "--max-error", "128")


def test_lossy_payloads_are_written_on_request(grey: CodecModel, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(SHAPES["grey"], 3)
    np.save("in.npy", images)
    assert command.main(["compress", "in.npy", "--to", "packed", "--quality", "40"]) == 0
    assert Path("packed").read_bytes() == compress(images, grey, Manner(quality=40))
    assert command.main(["compress", "in.npy", "--to", "packed", "--target-bytes", "60"]) == 0
    assert Path("packed").read_bytes() == compress(images, grey, Manner(target_bytes=60))
    assert command.main(["info", "packed"]) == 0
    assert "lossy: 3 images of 1×8×8, 1 chunk(s)" in capsys.readouterr().out
    assert command.main(["decompress", "packed", "--to", "out.npy"]) == 0
    assert np.load("out.npy").shape == images.shape
    assert "quality is 100, outside 1 … 99" in fails(
        capsys, "compress", "in.npy", "--to", "x", "--quality", "100"
    )


def archive_bytes() -> int:
    """Return the bytes of the pictures in folder `in` without loss."""
    assert command.main(["compress", "in", "--to", "lossless"]) == 0
    return Path("lossless").stat().st_size


def test_an_archive_fits_the_bytes_that_it_may_have(capsys: pytest.CaptureFixture[str]) -> None:
    folder = images_in(Path("in"))
    arguments = ["compress", "in", "--to", "archive", "--target-bytes"]
    assert "target_bytes = 300 needs images of one shape" in fails(capsys, *arguments, "300")
    (folder / "b" / "alpha.webp").unlink()
    assert command.main([*arguments, "200"]) == 0
    assert 0.95 * 200 < Path("archive").stat().st_size <= 200
    lossless = archive_bytes()
    assert command.main([*arguments, str(lossless)]) == 0
    assert Path("archive").stat().st_size == lossless
    assert command.main(["decompress", "archive", "--to", "out"]) == 0
    assert len(list(Path("out").glob("*.png"))) == 7
    assert "of target_bytes = 20 the archive's names take " in fails(capsys, *arguments, "20")


def test_a_payload_becomes_png_files(grey: CodecModel, capsys: pytest.CaptureFixture[str]) -> None:
    images = pictures(SHAPES["grey"], 3)
    Path("payload").write_bytes(compress(images, grey))
    assert command.main(["decompress", "payload", "--to", "out"]) == 0
    for number, [image] in enumerate(images):
        np.testing.assert_array_equal(Image.open(f"out/{number:06d}.png"), image)
    assert command.main(["decompress", "payload", "--to", "one.png", "--index", "1"]) == 0
    np.testing.assert_array_equal(Image.open("one.png"), images[1, 0])
    assert "3 images; one.png can be one" in fails(capsys, "decompress", "payload", "--to", "one.png")
    assert "File exists" in fails(capsys, "decompress", "payload", "--to", "out")


def test_an_array_comes_back_with_one_image_on_request(grey: CodecModel) -> None:
    images = pictures(SHAPES["grey"], 9)
    np.save("in.npy", images)
    assert command.main(["compress", "in.npy", "--to", "packed"]) == 0
    assert Path("packed").read_bytes() == compress(images, grey)
    assert command.main(["decompress", "packed", "--to", "out.npy"]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), images)
    assert command.main(["--threads", "1", "decompress", "packed", "--to", "one.npy", "--index", "8"]) == 0
    np.testing.assert_array_equal(np.load("one.npy"), images[8:])


def test_the_bundle_and_none_may_be_named(bundle: Path) -> None:
    np.save("in.npy", pictures(SHAPES["grey"], 2))
    assert command.main(["compress", "in.npy", "--to", "packed", "--model", str(bundle)]) == 0
    assert command.main(["info", "packed", "--model", str(bundle)]) == 0
    assert command.main(["compress", "in.npy", "--to", "plain", "--model", "none"]) == 0
    assert Path("plain").read_bytes()[2] == 0x20


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert command.main(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    return said


def test_faults_are_said(capsys: pytest.CaptureFixture[str], grey: CodecModel) -> None:
    Path("empty").mkdir()
    assert "empty: no .jpeg, .jpg, .png, .webp files in this folder" in fails(
        capsys, "compress", "empty", "--to", "packed"
    )
    Path("text.png").write_text("no image")
    assert "text.png: not a PNG, JPEG or WebP file" in fails(capsys, "compress", "text.png", "--to", "packed")
    assert "No such file" in fails(capsys, "compress", "missing.png", "--to", "packed")
    np.savez("several", np.zeros(1))
    Path("several.npz").rename("several.npy")
    assert "several.npy: several arrays, expected uint8" in fails(
        capsys, "compress", "several.npy", "--to", "packed"
    )
    Path("empty.npy").touch()
    assert "empty.npy: " in fails(capsys, "compress", "empty.npy", "--to", "packed")
    Image.new("L", (8193, 1)).save("wide.png")
    assert "wide.png: a side of 8193; the limit is 8192" in fails(
        capsys, "compress", "wide.png", "--to", "packed"
    )
    assert "No such file" in fails(capsys, "info", "text.png", "--model", "./missing")
    np.save("floats.npy", np.zeros((1, 1, 8, 8)))
    assert "floats.npy: float64 (1, 1, 8, 8), expected uint8" in fails(
        capsys, "compress", "floats.npy", "--to", "packed"
    )
    Path("broken.npy").write_text("no array")
    assert "broken.npy: " in fails(capsys, "compress", "broken.npy", "--to", "packed")
    np.save("whole.npy", np.zeros((1, 1, 8, 8), np.uint8))
    for old, new in ((b"8), }", b"8,(}  "), (b"1, 8, 8), }", b"9" * 9 + b"}"), (b"(1, ", b"(1e9")):
        Path("header.npy").write_bytes(Path("whole.npy").read_bytes().replace(old, new))
        assert "header.npy: cannot be read: " in fails(capsys, "compress", "header.npy", "--to", "packed")
    Path("cut.npy").write_bytes(b"PK\3\4" + bytes(100))
    assert "cut.npy: cannot be read: " in fails(capsys, "compress", "cut.npy", "--to", "packed")
    assert "absent.npy" in fails(capsys, "compress", "absent.npy", "--to", "packed")
    assert "not a payload" in fails(capsys, "info", "text.png")
    payload = compress(pictures(SHAPES["grey"], 1), grey)
    Path("other").write_bytes(payload[:3] + b"????" + payload[7:])
    assert "made with model 3f3f3f3f, which is not at hand" in fails(
        capsys, "decompress", "other", "--to", "x"
    )
    assert not Path("packed").exists()
    assert not Path("x").exists()


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png", "a\0.png"])
def test_an_archive_writes_nothing_outside_its_folder(capsys: pytest.CaptureFixture[str], name: str) -> None:
    Path("packed").write_bytes(pack([np.zeros((2, 2, 1), np.uint8)], [name], None))
    assert "leads outside the folder" in fails(capsys, "decompress", "packed", "--to", "out")
    assert not Path("a.png").exists()


def test_one_image_of_an_archive_is_found_by_its_number() -> None:
    images_in(Path("in"))
    command.main(["compress", "in", "--to", "packed"])
    assert command.main(["decompress", "packed", "--to", "one", "--index", "3"]) == 0
    assert [path.name for path in Path("one").iterdir()] == ["3.png"]


def test_folders_keep_their_names_where_there_are_several() -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Image.new("L", (8, 8), ord(folder)).save(f"{folder}/0.png")
    assert command.main(["compress", "a", "b", "--to", "packed"]) == 0
    assert command.main(["decompress", "packed", "--to", "out"]) == 0
    assert [Image.open(f"out/{folder}/0.png").getpixel((0, 0)) for folder in "ab"] == [97, 98]


@pytest.mark.parametrize(
    "names", [("a/1.png", "b/1.png"), ("a/x.webp", "a/x.webp.png"), ("a/x.png", "a/X.PNG")]
)
def test_pictures_that_would_be_one_file_are_refused(
    capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(name)
    assert "two pictures would be written as" in fails(capsys, "compress", *names, "--to", "packed")


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    images_in(Path("in"))
    command.main(["compress", "in", "--to", "packed"])
    before = Path("in/0.png").read_bytes()
    assert "File exists" in fails(capsys, "decompress", "packed", "--to", "in")
    assert Path("in/0.png").read_bytes() == before


def test_a_full_disk_is_said_and_leaves_what_was_there(
    capsys: pytest.CaptureFixture[str], grey: CodecModel
) -> None:
    images_in(Path("in"))
    command.main(["compress", "in", "--to", "packed"])
    Path("one").write_bytes(compress(pictures(SHAPES["grey"], 1), grey))
    for name in ("old.npy", "old.png"):
        Path(name).touch()
    before = Path("packed").read_bytes()
    there = sorted(Path().rglob("*"))
    with full_after(16):
        assert "File too large: 'packed'" in fails(capsys, "compress", "in", "--to", "packed")
        assert "File too large: 'old.npy'" in fails(capsys, "decompress", "one", "--to", "old.npy")
        assert "File too large: 'old.png'" in fails(capsys, "decompress", "one", "--to", "old.png")
        assert "File too large: 'out/0.png'" in fails(capsys, "decompress", "packed", "--to", "out")
    assert Path("packed").read_bytes() == before
    assert sorted(Path().rglob("*")) == sorted([*there, Path("out")])


def test_sigterm_leaves_whole_pictures_alone() -> None:
    count = 4000
    picture = np.zeros((2, 2, 1), np.uint8)
    Path("packed").write_bytes(pack([picture] * count, [f"{i}.png" for i in range(count)], None))
    arguments = [sys.executable, "-m", "codec", "--threads", "1", "decompress", "packed", "--to", "out"]
    with subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}) as running:
        eventually(lambda: Path("out").exists() and len(os.listdir("out")) > 10)
        running.terminate()
    assert running.returncode == 143
    written = list(Path("out").iterdir())
    assert 10 < len(written) < count
    for path in written:
        np.testing.assert_array_equal(decode_image(path.read_bytes(), 4), picture)


def test_a_file_system_without_links_is_written_to_and_nothing_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_links(draft: Path, place: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", without_links)
    images_in(Path("in"))
    command.main(["compress", "in", "--to", "packed"])
    assert command.main(["decompress", "packed", "--to", "out"]) == 0
    assert Path("out/0.png").read_bytes()
    assert "File exists: 'out/0.png'" in fails(capsys, "decompress", "packed", "--to", "out")
    assert not list(Path("out").glob(".*"))


def test_what_is_no_file_is_written_to_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    images_in(Path("in"))
    assert command.main(["compress", "in", "--to", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()
    assert "No space left" in fails(capsys, "compress", "in", "--to", "/dev/full")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_a_number_of_threads_is_one_at_least(threads: str) -> None:
    with pytest.raises(SystemExit):
        command.main(["--threads", threads, "info", "packed"])


def test_a_broken_codec_elsewhere_is_not_looked_at(bundle: Path) -> None:
    np.save("in.npy", pictures(SHAPES["grey"], 2))
    assert command.main(["compress", "in.npy", "--to", "packed"]) == 0
    (bundle.parent / "without" / FILE).write_bytes(b"no tensors")
    assert command.main(["decompress", "packed", "--to", "out.npy"]) == 0
