"""/v2: the Open Inference Protocol, as Triton's clients speak it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from app.errors import invalid
from app.inference import (
    VERSION,
    Asked,
    Inference,
    InferenceModel,
    described,
    find_model,
    models_of,
    parse_inference,
    written,
)
from app.negotiation import Limits, accepted_coding, deflated, is_worth_coding, json_answer
from app.routes.common import StrictRoute, check_live, check_ready, read, service_of, timed
from app.service import Service
from app.statistics import told

QUICK_ANSWER_BYTES = 1 << 18  # coded on the event loop
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
router = APIRouter(prefix="/v2", route_class=StrictRoute)


@router.get("", **described.SERVER)
async def server(request: Request) -> Response:
    """Name the server and the extensions of the protocol that it has."""
    document = {"name": "vaeserve", "version": version_of("vaeserve"), "extensions": EXTENSIONS}
    return json_answer(document)


@router.get("/health/live", **described.LIVE)
async def live(request: Request) -> Response:
    """Say that the process answers; 503 once the device is lost."""
    check_live(service_of(request))
    return json_answer({"live": True})


@router.get("/health/ready", **described.READY)
async def ready(request: Request) -> Response:
    """Say whether requests are taken."""
    check_ready(service_of(request))
    return json_answer({"ready": True})


@router.post("/repository/index", **described.INDEX)
async def index(request: Request) -> Response:
    """List every model."""
    models = [
        {"name": model.name, "version": VERSION, "state": "READY", "reason": ""}
        for model in models_of(service_of(request))
    ]
    return json_answer(models)


@router.get("/models/stats", **described.STATISTICS)
async def all_statistics(request: Request) -> Response:
    """Tell how often every model was asked, and how long it took."""
    service = service_of(request)
    return _statistics(service, list(models_of(service)))


@router.get("/models/{name}", **described.METADATA)
@router.get("/models/{name}/versions/{version}", **described.METADATA)
async def metadata(request: Request, name: str, version: str | None = None) -> Response:
    """Describe a model's inputs and outputs."""
    return json_answer(find_model(service_of(request), name, version).metadata())


@router.get("/models/{name}/ready", **described.MODEL_READY)
@router.get("/models/{name}/versions/{version}/ready", **described.MODEL_READY)
async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    """Say whether a model takes requests."""
    find_model(service_of(request), name, version)
    check_ready(service_of(request))
    return json_answer({"name": name, "ready": True})


@router.get("/models/{name}/config", **described.CONFIG)
@router.get("/models/{name}/versions/{version}/config", **described.CONFIG)
async def config(request: Request, name: str, version: str | None = None) -> Response:
    """Describe a model as Triton's model configuration does."""
    service = service_of(request)
    return json_answer(find_model(service, name, version).config(service))


@router.get("/models/{name}/stats", **described.STATISTICS)
@router.get("/models/{name}/versions/{version}/stats", **described.STATISTICS)
async def statistics(request: Request, name: str, version: str | None = None) -> Response:
    """Tell how often a model was asked, by whichever protocol, and how long it took."""
    service = service_of(request)
    return _statistics(service, [find_model(service, name, version)])


@router.post("/models/{name}/infer", **described.INFER)
@router.post("/models/{name}/versions/{version}/infer", **described.INFER)
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Compute a model's outputs."""
    service = service_of(request)
    model = find_model(service, name, version)
    service.batcher.check_room()
    header_length = request.headers.get("inference-header-content-length")

    def parse(body: bytes, _: str | None, limits: Limits) -> tuple[Inference, Any, Any]:
        inference = parse_inference(body, header_length, model.signature)
        parameters = _parameters(model, inference)
        given = model.call.prepare(inference.inputs, parameters, model.bundle, limits)
        return inference, parameters, given

    (inference, parameters, given), deadline = await read(request, parse)
    if inference.timeout_seconds is not None:
        deadline = min(deadline, time.monotonic() + inference.timeout_seconds)
    outcome = await model.call.run(Asked(service, request, model.bundle, given, parameters, deadline))
    return timed(await _coded(request, written(name, VERSION, inference, outcome.values)), outcome)


def _statistics(service: Service, models: Sequence[InferenceModel]) -> Response:
    families = list(service.metrics.families())
    found = [
        {"name": model.name, "version": VERSION, **told(families, model.bundle.id, model.operation)}
        for model in models
    ]
    return json_answer({"model_stats": found})


def _parameters(model: InferenceModel, inference: Inference) -> Any:
    try:
        return model.call.parameters(**inference.parameters)
    except ValidationError as error:
        raise invalid("inference", error) from error


async def _coded(request: Request, response: Response) -> Response:
    body, coding = bytes(response.body), accepted_coding(request)
    if coding is None or not is_worth_coding(body):
        return response
    is_quick = len(body) <= QUICK_ANSWER_BYTES
    coded = deflated(body, coding) if is_quick else await asyncio.to_thread(deflated, body, coding)
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(coded, headers={**headers, "Content-Encoding": coding, "Vary": "Accept-Encoding"})
