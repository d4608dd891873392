"""What Schemathesis loads: how it makes bodies, further checks, and the count of what was answered.

CONFORMANCE_FACTS names a file of what `running` learned of the service, CONFORMANCE_COUNTS one to write.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import safetensors.numpy
import schemathesis
from hypothesis import strategies
from PIL import Image
from schemathesis import CheckContext, HookContext, Response
from schemathesis.core import NOT_SET

from app.negotiation.media import ENCODED_IMAGES, NPY, PAYLOAD, SAFETENSORS
from benchmarks.conformance.bodies import Model
from benchmarks.conformance.completion import AnyCase, Completion

# Of HTTP itself, whatever a document says.
UNSAID_HEADERS = {"connection", "content-length", "content-type", "date", "transfer-encoding"}


def _read_zip(body: bytes) -> None:
    with ZipFile(BytesIO(body)) as archive:
        for name in archive.namelist():
            Image.open(BytesIO(archive.read(name))).load()


READERS: dict[str, Callable[[bytes], object]] = {
    "image/png": lambda body: Image.open(BytesIO(body)).load(),
    NPY: lambda body: np.load(BytesIO(body), allow_pickle=False),
    SAFETENSORS: safetensors.numpy.load,
    "application/zip": _read_zip,
}
counts: Counter[str] = Counter()


def _models() -> dict[str, Model]:
    facts: dict[str, dict[str, Any]] = json.loads(Path(os.environ["CONFORMANCE_FACTS"]).read_text())
    return {
        id: Model(
            id,
            tuple(fact["shape"]),
            fact["latent_dim"],
            fact["has_codec"],
            {int(count): base64.b64decode(payload) for count, payload in fact["payloads"].items()},
        )
        for id, fact in facts.items()
    }


complete = Completion(_models())

# The numbers that a body is made from: what it is to be depends on the rest of the case.
for media_type in (*ENCODED_IMAGES, NPY, SAFETENSORS, PAYLOAD, "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, strategies.binary(min_size=4, max_size=4))


@schemathesis.hook
def before_call(context: HookContext, case: AnyCase, kwargs: dict[str, Any]) -> None:
    """Complete a case."""
    complete(case)


@schemathesis.hook
def after_call(context: HookContext, case: AnyCase, response: Response) -> None:
    """Count an answer by operation, phase, whether the case was valid, type of the body, and status."""
    complete.settle(case, response.status_code)
    assert case.meta is not None
    phase, mode = case.meta.phase.name.value, case.meta.generation.mode.value
    body = "" if case.body is NOT_SET else str(case.media_type)
    counts["|".join((case.operation.label, phase, mode, body, str(response.status_code)))] += 1


@atexit.register
def _write_counts() -> None:
    Path(os.environ["CONFORMANCE_COUNTS"]).write_text(json.dumps(counts))


@schemathesis.check
def documented_headers(ctx: CheckContext, response: Response, case: AnyCase) -> None:
    """Have every header of an answer be in the document."""
    described = case.operation.responses.find_by_status_code(response.status_code)
    if described is None:  # the check of statuses has that
        return
    known = {name.lower() for name, _ in described.headers.items()}
    unknown = set(response.headers) - known - UNSAID_HEADERS
    assert not unknown, f"undocumented headers: {', '.join(sorted(unknown))}"


@schemathesis.check
def readable_answers(ctx: CheckContext, response: Response, case: AnyCase) -> None:
    """Have an answer be what its media type says, and of one that was accepted."""
    media_type = response.headers.get("content-type", [""])[0].partition(";")[0]
    if response.status_code != 200:
        return
    accepted = case.headers.get("Accept", "*/*")
    assert accepted in ("*/*", media_type), f"{media_type} was answered; accepted is {accepted}"
    if media_type in READERS:
        try:
            READERS[media_type](response.content)
        except Exception as error:
            raise AssertionError(f"the answer is no {media_type}: {error}") from error
