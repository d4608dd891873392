"""Cases as Schemathesis makes them of schemas, completed by what no schema says.

Of the bodies that keep to their schema, some are completed, some damaged, and some left as they were made.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any

import numpy as np
from schemathesis import Case, GenerationMode
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import CaseMetadata, ComponentInfo, TestPhase

from app.inference.messages import LENGTH_HEADER
from app.negotiation.media import ENCODED_IMAGES, JSON
from benchmarks.conformance import bodies, inference
from benchmarks.conformance.bodies import Kind, Model, Rng, Size

AnyCase = Case[Any]
BODIES: dict[str, Kind] = {
    "/encode": "images",
    "/reconstruct": "images",
    "/score": "images",
    "/compress": "images",
    "/decode": "latents",
    "/decompress": "payload",
}
_gzip = partial(gzip.compress, mtime=0)
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": _gzip, "x-gzip": _gzip, "deflate": zlib.compress}
ROOMY_BYTES = 8192  # of a payload: any image here fits without loss
UNKNOWN = 4  # one in so many cases keeps the id of a model that Schemathesis made up
PATH, QUERY = ParameterLocation.PATH, ParameterLocation.QUERY
HEADER, BODY = ParameterLocation.HEADER, ParameterLocation.BODY


class Fate(Enum):
    """What becomes of a body that keeps to its schema."""

    COMPLETED = auto()
    DAMAGED = auto()
    AS_MADE = auto()


FATES = (Fate.COMPLETED, Fate.COMPLETED, Fate.DAMAGED, Fate.AS_MADE)


@dataclass(frozen=True)
class Completion:
    """Completes cases for a service that has these models, the default first.

    `as_made` has the modes, by their ids, of cases whose body is as it was made: no schema says whether the
    service takes it.
    """

    models: Mapping[str, Model]
    as_made: dict[str, GenerationMode] = field(default_factory=dict)

    def __call__(self, case: AnyCase) -> None:
        """Have a case's valid parts keep to what no schema says; what is to be wrong stays so."""
        meta = case.meta
        if meta is None:
            return
        whole = meta.generation.mode
        modes = {place: found.mode for place, found in meta.components.items()}
        if meta.phase.name is TestPhase.EXAMPLES:  # each right by itself, though not with every other
            modes = dict.fromkeys((PATH, QUERY, BODY), GenerationMode.POSITIVE) | modes
        rng = np.random.default_rng(zlib.crc32(repr((case.path, case.query, case.body)).encode()))
        if modes.get(PATH) is GenerationMode.POSITIVE:
            self._complete_path(rng, case)
        if modes.get(QUERY) is GenerationMode.POSITIVE:
            self._complete_query(rng, case)
        if "format" not in case.query and "/v2" not in case.path and rng.integers(2):
            content = case.operation.definition.raw["responses"]["200"]["content"]
            case.headers.setdefault("Accept", str(rng.choice(list(content))))
        fate = Fate.COMPLETED
        if modes.get(BODY) is GenerationMode.POSITIVE and case.media_type is not None:
            fates = FATES[:-1] if meta.phase.name is TestPhase.EXAMPLES else FATES
            fate = fates[rng.integers(len(fates))]
            self._complete_body(rng, case, fate, modes.get(HEADER) is not GenerationMode.NEGATIVE)
        if fate is Fate.AS_MADE:
            self.as_made[case.id] = whole
        _keep_modes(case, modes, whole, fate is not Fate.COMPLETED)

    def settle(self, case: AnyCase, status: int) -> None:
        """Have a body that is as it was made count as valid where the service took it."""
        whole = self.as_made.pop(case.id, None)
        if whole is not None and status < 300:
            assert isinstance(case.meta, CaseMetadata)
            case.meta.components[BODY] = ComponentInfo(mode=GenerationMode.POSITIVE)
            case.meta.generation.mode = whole

    def _complete_path(self, rng: Rng, case: AnyCase) -> None:
        names = {
            "id": list(self.models),
            "name": [f"{id}.{operation}" for id in self.models for operation in inference.OUTPUTS]
            + list(inference.OUTPUTS),
            "version": ["1"],
        }
        if rng.integers(UNKNOWN):
            case.path_parameters = {name: str(rng.choice(names[name])) for name in case.path_parameters}

    def _complete_query(self, rng: Rng, case: AnyCase) -> None:
        query = case.query
        if query.get("model") and rng.integers(UNKNOWN):
            query["model"] = str(rng.choice(list(self.models)))
        model = self._model(query.get("model"))
        if case.path == "/compress":
            losses = [name for name in ("max_error", "quality", "target_bytes") if name in query]
            kept = str(rng.choice(losses)) if losses else None
            is_colour = case.media_type == "image/webp" and model.shape[0] == 1  # as all WebP is
            if kept in ("quality", "target_bytes") and (is_colour or not model.has_codec):
                kept = None
            for name in losses:
                if name != kept:
                    del query[name]
            if kept == "target_bytes":
                query[kept] = str(ROOMY_BYTES)
        if case.path == "/decompress" and "index" in query:
            query["index"] = str(rng.integers(min(model.payloads)))

    def _complete_body(self, rng: Rng, case: AnyCase, fate: Fate, may_have_headers: bool) -> None:
        headers = case.headers if may_have_headers else {}
        is_damaged = fate is Fate.DAMAGED
        if fate is not Fate.AS_MADE and case.path.endswith("/infer"):
            self._complete_inference(rng, case, is_damaged, headers)
        elif fate is not Fate.AS_MADE:
            self._complete_own(rng, case, BODIES[case.path], is_damaged)
        if coding := CODINGS.get(headers.get("Content-Encoding", "")):
            body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
            case.body = coding(body)

    def _complete_inference(
        self, rng: Rng, case: AnyCase, is_damaged: bool, headers: MutableMapping[str, Any]
    ) -> None:
        id, _, operation = str(case.path_parameters.get("name", "")).rpartition(".")
        if operation not in inference.OUTPUTS:
            id, operation = "", "encode"
        is_binary = case.media_type != JSON
        is_misshapen = is_damaged and bool(rng.integers(2))
        body, length = inference.request(rng, operation, self._model(id), is_binary, is_misshapen)
        if is_damaged and not is_misshapen:
            body, length = inference.damaged(rng, body, length)
        case.body = body
        headers.pop(LENGTH_HEADER, None)
        if length is not None:
            headers[LENGTH_HEADER] = str(length)

    def _complete_own(self, rng: Rng, case: AnyCase, kind: Kind, is_damaged: bool) -> None:
        media_type = str(case.media_type)
        if is_damaged and media_type == JSON:
            case.body = bodies.damaged_json(rng, kind)
            return
        document = dict(case.body) if isinstance(case.body, dict) else {}  # more members are no fault
        made = self._made(rng, case, kind, media_type, document)
        if is_damaged and isinstance(made, bytes):
            made = bodies.damaged(rng, kind, media_type, made)
        case.body = made

    def _made(
        self, rng: Rng, case: AnyCase, kind: Kind, media_type: str, document: dict[str, Any]
    ) -> dict[str, Any] | bytes:
        model, count = self._model(case.query.get("model")), 1 + int(rng.integers(bodies.MAX_ROWS))
        if kind == "payload":
            payload = model.payloads[int(rng.choice(list(model.payloads)))]
            if media_type != JSON:
                return payload
            return {**document, "payload": base64.b64encode(payload).decode()}
        if kind == "latents":
            latents = rng.standard_normal((count, model.latent_dim), np.float32)
            if media_type != JSON:
                return bodies.raw(media_type, "z", latents)
            return {**document, "latents": latents.tolist()}
        images = self._images(rng, case, model, count)
        if media_type in ENCODED_IMAGES:
            return bodies.file_of(images[0], media_type)
        if media_type != JSON:
            return bodies.raw(media_type, "images", images)
        files = [bodies.file_of(image, "image/png") for image in images]
        return {**document, "images": [base64.b64encode(file).decode() for file in files]}

    def _images(self, rng: Rng, case: AnyCase, model: Model, count: int) -> np.ndarray:
        is_lossy = "quality" in case.query or "target_bytes" in case.query
        is_fixed = is_lossy or (case.path != "/compress" and not case.query.get("fit"))
        channels = (1, 3, 4) if case.path == "/compress" else (1, 3)
        return bodies.pixels(rng, count, model, Size(is_fixed, is_lossy), channels)

    def _model(self, id: object) -> Model:
        return self.models.get(str(id)) or next(iter(self.models.values()))


def _keep_modes(
    case: AnyCase, modes: Mapping[ParameterLocation, GenerationMode], whole: GenerationMode, may_refuse: bool
) -> None:
    # Which have been judged anew, by their schemas alone.
    meta = case.meta
    assert isinstance(meta, CaseMetadata)
    for place in meta.components:
        meta.components[place] = ComponentInfo(mode=modes[place])
    if may_refuse:
        meta.components[BODY] = ComponentInfo(mode=GenerationMode.NEGATIVE)
    meta.generation.mode = GenerationMode.NEGATIVE if may_refuse else whole
