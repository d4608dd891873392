"""The bill of materials against its schema, the lock files and the bundles."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from deploy import sbom
from tests.locks import SERVICE, TORCH, locked

ROOT = Path(__file__).parents[2]
FILE = ROOT / "sbom.cdx.json"
BILL: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
# What the image has: Linux on x86_64, and its Python.
IMAGE = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "python_version": "3.11",
    "python_full_version": "3.11.14",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
PACKAGES = {each["name"]: each for each in BILL["components"] if each["type"] == "library"}
MODELS = {each["name"]: each for each in BILL["components"] if each["type"] == "machine-learning-model"}


def test_it_is_valid_by_cyclonedx() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(FILE.read_text(encoding="utf-8")) is None


def test_the_schema_is_one_that_says_no() -> None:
    wrong = {**BILL, "components": [{"type": "library"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(wrong)) is not None


def test_it_has_what_the_lock_files_have_for_the_image_and_nothing_else() -> None:
    requirements = [Requirement(line) for file in (SERVICE, TORCH) for line in locked(file)]
    assert {name: each["version"] for name, each in PACKAGES.items()} == {
        each.name: str(each.specifier).removeprefix("==")
        for each in requirements
        if each.marker is None or each.marker.evaluate(IMAGE)
    }, "make sbom writes it anew"


def test_every_package_has_the_hash_of_a_file_that_is_locked() -> None:
    hashes = {
        line.partition(" ")[0]: each for file in (SERVICE, TORCH) for line, each in locked(file).items()
    }
    for name, package in PACKAGES.items():
        [digest] = package["hashes"]
        assert digest["alg"] == "SHA-256"
        assert f"sha256:{digest['content']}" in hashes[f"{name}=={package['version']}"], name


def test_every_bundle_is_there_with_the_digests_that_the_service_verifies() -> None:
    assert set(MODELS) == {path.name for path in sbom.BUNDLES.iterdir()}
    for name, model in MODELS.items():
        files = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
        sums = (sbom.BUNDLES / name / "SHA256SUMS").read_text(encoding="utf-8")
        assert sums == "".join(f"{digest}  {name}\n" for name, digest in files.items()), (
            "make sbom writes it anew"
        )


def test_it_is_of_this_version() -> None:
    version = re.search(
        r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version
    assert BILL["metadata"]["component"]["version"] == version[1]


def test_everything_is_there_because_something_needs_it() -> None:
    needed = {reference for each in BILL["dependencies"] for reference in each["dependsOn"]}
    assert needed == {each["bom-ref"] for each in BILL["components"]}


def test_it_names_no_time_and_no_place() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^/\"]+", text)) == {"http://cyclonedx.org"}
    assert not re.search(r"timestamp|serialNumber|/home/|/tmp/|file:", text)


# Of these, packages ask more of who hands on the image than to keep the notices.
def test_the_licences_that_ask_for_more_are_those_of_the_document() -> None:
    more = re.compile(r"GPL|MPL|EPL|proprietary|other", re.IGNORECASE)
    found = {
        name
        for name, each in {**PACKAGES, **MODELS}.items()
        if more.search(str(each.get("licenses", "other")))
    }
    document = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for name in sorted(found):
        shown = re.sub(r"^nvidia-.*", "nvidia-*", name)
        assert f"`{shown}`" in document, name


@pytest.mark.parametrize(
    ("metadata", "licences"),
    [
        ({"license_expression": "MIT AND Zlib"}, [{"expression": "MIT AND Zlib"}]),
        ({"license": "Apache-2.0"}, [{"expression": "Apache-2.0"}]),
        ({"license": "BSD"}, [{"license": {"name": "BSD"}}]),
        ({"license": "the whole\ntext"}, [{"license": {"name": "the whole"}}]),
        (
            {"license": "BSD", "classifier": ["License :: OSI Approved :: BSD License", "Topic :: Printing"]},
            [{"license": {"name": "BSD License"}}],
        ),
        ({}, []),
    ],
)
def test_a_licence_is_told_as_well_as_the_package_tells_it(
    metadata: dict[str, Any], licences: list[dict[str, Any]]
) -> None:
    assert sbom.licences(metadata) == licences


def reported(name: str, version: str, *requirements: str, **more: Any) -> dict[str, Any]:
    """What pip reports of a package, as far as it is read."""
    metadata = {"name": name, "version": version, "requires_dist": list(requirements), **more}
    return {"metadata": metadata, "download_info": {"archive_info": {"hashes": {"sha256": version * 64}}}}


def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *items: dict[str, Any]) -> dict[str, Any]:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"install": items}), encoding="utf-8")
    assert sbom.main([str(report)]) == 0
    bill: dict[str, Any] = json.loads(capsys.readouterr().out)
    return bill


def test_it_is_made_of_what_pip_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bill = printed(tmp_path, capsys, reported("Not_Installed.Here", "1", license_expression="0BSD"))
    assert bill["components"][0] == {
        "type": "library",
        "bom-ref": "pkg:pypi/not-installed-here@1",
        "name": "not-installed-here",
        "version": "1",
        "purl": "pkg:pypi/not-installed-here@1",
        "licenses": [{"expression": "0BSD"}],
        "hashes": [{"alg": "SHA-256", "content": "1" * 64}],
    }


def test_what_is_installed_tells_its_licence_where_pip_left_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bill = printed(
        tmp_path, capsys, reported("starlette", PACKAGES["starlette"]["version"]), reported("anyio", "0")
    )
    starlette, anyio = (
        next(each for each in bill["components"] if each["name"] == name) for name in ("starlette", "anyio")
    )
    assert starlette["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert "licenses" not in anyio, "another version is installed"


def test_a_build_of_a_version_is_told_from_the_others() -> None:
    assert sbom.purl({"name": "torch", "version": "2.13.0+cpu"}) == "pkg:pypi/torch@2.13.0%2Bcpu"


def test_a_package_that_only_an_extra_needs_is_needed_where_that_is_asked_for() -> None:
    extra = 'b>=1; sys_platform == "linux" and extra == "more"'
    packages = {
        each["metadata"]["name"]: (each, each["metadata"])
        for each in (reported("a", "1", extra, "elsewhere; os_name == 'nt'"), reported("b", "2", "a"))
    }

    def edges(requirement: str) -> dict[str, set[str]]:
        return sbom.dependencies({"name": "project", "dependencies": [requirement]}, packages)

    assert edges("a[other]>=1") == {"project": {"pkg:pypi/a@1"}, "pkg:pypi/a@1": set()}
    assert edges("a[other,more]") == {
        "project": {"pkg:pypi/a@1"},
        "pkg:pypi/a@1": {"pkg:pypi/b@2"},
        "pkg:pypi/b@2": {"pkg:pypi/a@1"},
    }
