"""What is installed is what the lock files name, file by file."""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.locks import DEVELOPMENT, SERVICE, TORCH, locked

ROOT = Path(__file__).parents[2]
OF_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
VERIFIED = "--no-deps --require-hashes"


def installations(file: str) -> set[str]:
    """The arguments of every installation by pip in a file, options that change nothing left out."""
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    text = text.replace("$install ", "pip install ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = [
        each for line in lines for each in re.findall(r"\bpip(?: --python \S+)? install (.*?)(?:;|&|$)", line)
    ]
    return {" ".join(re.sub(r"-q |--no-cache-dir|--report \S+", "", each).split()) for each in found} - {'"'}


@pytest.mark.parametrize("file", [SERVICE, DEVELOPMENT, TORCH])
class TestEveryLockFile:
    def test_has_one_version_and_the_hashes_of_every_package(self, file: str) -> None:
        for requirement, hashes in locked(file).items():
            assert re.fullmatch(r"==[^*,]+", str(Requirement(requirement).specifier)), requirement
            assert hashes, requirement

    def test_names_no_index(self, file: str) -> None:
        assert "://" not in (ROOT / file).read_text(encoding="utf-8")


def test_torch_and_its_builds_companions_alone_are_in_a_file_of_their_own() -> None:
    assert "torch" in {Requirement(line).name for line in locked(TORCH)}
    assert all(OF_TORCH.fullmatch(Requirement(line).name) for line in locked(TORCH))
    assert not any(OF_TORCH.fullmatch(Requirement(line).name) for line in locked(DEVELOPMENT))


def test_the_service_is_developed_with_what_it_is_served_with() -> None:
    assert locked(SERVICE).items() <= locked(DEVELOPMENT).items()
    assert "pytest" not in {Requirement(line).name for line in locked(SERVICE)}


def test_what_builds_the_projects_is_locked_as_well() -> None:
    [builder] = [line for line in locked(SERVICE) if Requirement(line).name == "setuptools"]
    for project in ("pyproject.toml", "client/pyproject.toml"):
        [needed] = re.findall(r'requires = \["(.+)"\]', (ROOT / project).read_text(encoding="utf-8"))
        assert Requirement(needed).specifier.contains(builder.partition("==")[2])


def test_every_installation_is_verified_but_for_the_projects_and_a_chosen_torch() -> None:
    assert {each for each in installations("Dockerfile") if VERIFIED not in each} == {
        '--index-url "$TORCH_INDEX_URL" -r torch.txt',
        "--no-deps --no-build-isolation --target /srv/vaeserve .",
    }
    assert {each for each in installations("Makefile") if VERIFIED not in each} == {
        "-c .venv/torch.txt torch",
        "torch==$(TORCH)",
        "--no-deps --no-build-isolation $(PROJECTS)",
        "--no-deps --no-build-isolation -e . -e ./client",
        "-r benchmarks/serving/peers/requirements.txt",  # the servers that are compared with
        # Installs nothing.
        "--dry-run --ignore-installed --no-deps --only-binary :all: -r .venv/packages.txt",
    }


def write_wheel(folder: Path, content: str) -> Path:
    """Write a wheel that has the name and the version of a locked one."""
    [version] = [line.partition("==")[2] for line in locked(SERVICE) if Requirement(line).name == "h11"]
    path = folder / f"h11-{version}-py3-none-any.whl"
    about = f"h11-{version}.dist-info"
    files = {
        "h11.py": content,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: h11\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(name, text)
    return path


def installed(folder: Path, lines: list[str]) -> subprocess.CompletedProcess[str]:
    """Have pip install from a lock file, as the Makefile and the Dockerfile do, out of a folder of wheels."""
    (folder / "the.lock").write_text("\n".join(lines), encoding="utf-8")
    options = ["--no-index", "--find-links", folder, "--target", folder / "to", *VERIFIED.split()]
    return subprocess.run(
        [sys.executable, "-m", "pip", "--isolated", "install", *options, "-r", folder / "the.lock"],
        capture_output=True,
        text=True,
    )


def test_a_file_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    lock = (ROOT / SERVICE).read_text(encoding="utf-8")
    [entry] = re.findall(r"^h11==.*(?:\n .*)+", lock, re.MULTILINE)
    write_wheel(tmp_path, "forged = True")
    refused = installed(tmp_path, [entry])
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "to" / "h11.py").exists()


def test_the_file_that_a_lock_names_is_installed(tmp_path: Path) -> None:
    written = write_wheel(tmp_path, "genuine = True")
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    done = installed(tmp_path, [f"h11=={written.name.split('-')[1]} --hash=sha256:{digest}"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / "h11.py").exists()


def test_a_package_without_a_hash_is_refused(tmp_path: Path) -> None:
    written = write_wheel(tmp_path, "unknown = True")
    refused = installed(tmp_path, [f"h11=={written.name.split('-')[1]}"])
    assert refused.returncode != 0
    assert "Hashes are required" in refused.stderr
