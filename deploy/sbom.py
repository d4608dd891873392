"""`python deploy/sbom.py REPORT…`: a bill of materials, from pip's installation reports.

It is CycloneDX 1.6: the Python packages that pip reported, and the bundles, with their licences and SHA-256
digests. It names no time and no place, so that the same files give the same bytes. The image
makes its own, with the standard library alone.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "models" / "bundles"

REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^]]*)\])?")
FOR_EXTRA = re.compile(r"""extra\s*==\s*["']([\w.-]+)""")
SPDX = re.compile(r"(MIT|(MPL|BSD|Apache|LicenseRef|CC)-[\w.-]+|\b(AND|OR)\b|[() ])+")
CLASSIFIER = "License :: OSI Approved :: "

Json = dict[str, Any]
Package = tuple[Json, Json]  # as pip reported it, and its metadata


def main(reports: list[str]) -> int:
    """Print the bill of materials of what pip reported, and of the bundles."""
    packages = {}
    for report in reports:
        for item in json.loads(Path(report).read_text(encoding="utf-8"))["install"]:
            packages[normalised(item["metadata"]["name"])] = (item, best_metadata(item["metadata"]))
    print(json.dumps(bill(packages), indent=2))
    return 0


def bill(packages: dict[str, Package]) -> Json:
    """Return the document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bundles = [bundle(folder) for folder in sorted(BUNDLES.iterdir())]
    root = {
        "type": "application",
        "bom-ref": project["name"],
        "name": project["name"],
        "version": project["version"],
        "licenses": licences({"license": project["license"]}),
    }
    edges = dependencies(project, packages)
    edges[project["name"]] |= {each["bom-ref"] for each in bundles}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": [component(*packages[name]) for name in sorted(packages)] + bundles,
        "dependencies": [{"ref": ref, "dependsOn": sorted(edges[ref])} for ref in sorted(edges)],
    }


def component(item: Json, metadata: Json) -> Json:
    """Return a package with the digest of the file that it was installed from."""
    reference = purl(metadata)
    described: Json = {
        "type": "library",
        "bom-ref": reference,
        "name": normalised(metadata["name"]),
        "version": metadata["version"],
        "purl": reference,
    }
    if found := licences(metadata):
        described["licenses"] = found
    if digest := item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256"):
        described["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return described


def bundle(folder: Path) -> Json:
    """Return a bundle as a model, with the digests of its files that the service verifies."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    [licence] = re.findall(r"^license: (.+)$", card, re.MULTILINE)
    return {
        "type": "machine-learning-model",
        "bom-ref": f"bundle:{folder.name}",
        "name": folder.name,
        "licenses": licences({"license": licence if licence == "other" else licence.upper()}),
        "components": [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for digest, name in map(str.split, lines)
        ],
    }


def licences(metadata: Json) -> list[Json]:
    """Return what a package's metadata say of its licence: in SPDX's words where they do, else in theirs."""
    said = metadata.get("license_expression") or (metadata.get("license") or "").strip()
    if metadata.get("license_expression") or SPDX.fullmatch(said):
        return [{"expression": said}]
    named = [line.removeprefix(CLASSIFIER) for line in metadata.get("classifier", []) if CLASSIFIER in line]
    return [{"license": {"name": name}} for name in named or said.splitlines()[:1]]


def dependencies(project: Json, packages: dict[str, Package]) -> dict[str, set[str]]:
    """Return which package has which others for its requirements, from the project on."""
    edges: dict[str, set[str]] = {project["name"]: set()}
    waiting = [(project["name"], requirement, "") for requirement in project["dependencies"]]
    seen = set(waiting)
    while waiting:
        source, requirement, extras = waiting.pop()
        extra = FOR_EXTRA.search(requirement)
        named = REQUIREMENT.match(requirement)
        if named is None or (extra and extra[1] not in extras.split(",")):
            continue
        if (name := normalised(named[1])) not in packages:
            continue  # for another system
        metadata = packages[name][1]
        edges[source].add(purl(metadata))
        edges.setdefault(purl(metadata), set())
        more = {(purl(metadata), text, named[2] or "") for text in metadata.get("requires_dist", [])} - seen
        seen |= more
        waiting += more
    return edges


def best_metadata(reported: Json) -> Json:
    """Return what that version says of itself where it is installed: an older pip leaves licences out."""
    try:
        found = distribution(reported["name"])
    except PackageNotFoundError:
        return reported
    return dict(found.metadata.json) if found.version == reported["version"] else reported


def normalised(name: str) -> str:
    """Return a package's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def purl(metadata: Json) -> str:
    """Return a package's address in the language of package URLs."""
    return f"pkg:pypi/{normalised(metadata['name'])}@{metadata['version'].replace('+', '%2B')}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
