"""Reading a bundle's files with every fault collected, none raised: the lower half of loading a bundle."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors

SUMS = "SHA256SUMS"
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # tensor name → dtype and shape
Document = TypeVar("Document", bound=BaseModel)


class BundleFiles:
    """The bytes of a bundle's files, checked against SHA256SUMS; `faults` grows with every look."""

    def __init__(self, path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
        self.faults: list[str] = []
        self._content: dict[str, bytes] = {}
        for name in (*required, *optional, SUMS):
            try:
                self._content[name] = (path / name).read_bytes()
            except FileNotFoundError:
                if name not in optional:
                    self.faults.append(f"{name}: missing")
            except OSError as error:
                self.faults.append(f"{name}: cannot be read: {error.strerror}")
        self._check_digests()

    @property
    def digest(self) -> str:
        """SHA-256 of SHA256SUMS: names the exact bundle."""
        return hashlib.sha256(self._content[SUMS]).hexdigest()

    def _check_digests(self) -> None:
        if SUMS not in self._content:
            return
        listed = self._parse_sums()
        for name, content in self._content.items():
            actual = hashlib.sha256(content).hexdigest()
            if name != SUMS and listed.get(name) != actual:
                self.faults.append(f"{name}: SHA-256 is {actual}, {SUMS} lists {listed.get(name, 'none')}")
        unknown = listed.keys() - self._content.keys()
        self.faults.extend(f"{name}: listed in {SUMS} but not part of the bundle" for name in sorted(unknown))

    def _parse_sums(self) -> dict[str, str]:
        listed = {}
        content = self._content[SUMS].decode("utf-8", "replace")
        for number, ended in enumerate(content.splitlines(keepends=True), start=1):
            line = ended.removesuffix("\n")
            digest, separator, name = line.partition("  ")
            if separator and len(digest) == 64 and line != ended:  # or else it is damaged, or cut off
                listed[name] = digest
            else:
                self.faults.append(f"{SUMS}: line {number} is not '<sha256>  <name>': {line[:80]!r}")
        return listed

    def document(self, name: str, kind: type[Document]) -> Document | None:
        """Return a JSON file as a `kind`, or None where it is missing or at fault."""
        if name not in self._content:
            return None
        try:
            return kind.model_validate(json.loads(self._content[name]))
        except ValidationError as error:
            for fault in error.errors():
                where = ".".join(map(str, fault["loc"])) or "document"
                self.faults.append(f"{name}: {where}: {fault['msg']}, got {reprlib.repr(fault['input'])}")
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested without end
            self.faults.append(f"{name}: not JSON: {error}")
        return None

    def arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """Return the tensors of a safetensors file, or None where it is missing or at fault."""
        if name not in self._content:
            return None
        try:
            return parse_safetensors(self._content[name])
        except (SafetensorError, ValueError, KeyError) as error:
            self.faults.append(f"{name}: not safetensors: {error}")
            return None

    def check_layout(self, name: str, arrays: Mapping[str, np.ndarray] | None, expected: Layout) -> None:
        """Collect missing and unexpected tensors, wrong dtypes and shapes, NaN and infinities."""
        if arrays is not None:  # else the file's own fault is already known
            self.faults.extend(f"{name}: {fault}" for fault in layout_faults(arrays, expected))


def layout_faults(arrays: Mapping[str, np.ndarray], expected: Layout) -> list[str]:
    """Return missing and unexpected tensors, wrong dtypes and shapes, NaN and infinities."""
    faults = [f"{key}: missing" for key in expected if key not in arrays]
    faults += [f"{key}: unexpected" for key in arrays if key not in expected]
    for key in expected.keys() & arrays.keys():
        actual, wanted = (str(arrays[key].dtype), arrays[key].shape), expected[key]
        if actual != wanted:
            faults.append(f"{key}: {_describe(actual)}, expected {_describe(wanted)}")
        elif bad := int(np.count_nonzero(~np.isfinite(arrays[key]))):
            faults.append(f"{key}: {bad} of {arrays[key].size} values are NaN or infinite")
    return faults


def _describe(layout: tuple[str, tuple[int, ...]]) -> str:
    return f"{layout[0]} {'×'.join(map(str, layout[1])) or 'scalar'}"
