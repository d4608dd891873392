"""/v2: the Open Inference Protocol, as Triton's clients speak it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter, Request, Response

from app.inference import (
    LENGTH_HEADER,
    VERSION,
    Asked,
    Inference,
    InferenceModel,
    check_form,
    described,
    find_model,
    models_of,
    size_of,
    written,
)
from app.negotiation import (
    MAX_JSON_VALUES,
    Limits,
    accepted_coding,
    deflated,
    is_worth_coding,
    json_answer,
)
from app.negotiation.media import JSON
from app.routes.common import QUICK_RAW_BYTES, StrictRoute, check_live, check_ready, read, service_of, timed
from app.service import Service

QUICK_ANSWER_BYTES = 16 << 10  # coded on the event loop
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
router = APIRouter(prefix="/v2", route_class=StrictRoute, tags=["inference"])
Handler = Callable[[Request, InferenceModel], Awaitable[Response]]


@router.get("", **described.SERVER)
async def server(request: Request) -> Response:
    """Name the server and the extensions of the protocol that it has."""
    document = {"name": "vaeserve", "version": version_of("vaeserve"), "extensions": EXTENSIONS}
    return json_answer(document)


def of_model(method: str, path: str, description: dict[str, Any]) -> Callable[[Handler], Handler]:
    """Register a handler for a model, by its name alone and with its version."""

    def register(handle: Handler) -> Handler:
        async def any_version(request: Request, name: str) -> Response:
            return await handle(request, find_model(service_of(request), name))

        async def one_version(request: Request, name: str, version: str) -> Response:
            return await handle(request, find_model(service_of(request), name, version))

        names = (("", any_version, ""), ("/versions/{version}", one_version, "_of_version"))
        for part, endpoint, suffix in names:
            endpoint.__doc__, endpoint.__name__ = handle.__doc__, handle.__name__ + suffix
            router.add_api_route(f"/models/{{name}}{part}{path}", endpoint, methods=[method], **description)
        return handle

    return register


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
    return await _statistics(service, list(models_of(service)))


@of_model("GET", "", described.METADATA)
async def metadata(request: Request, model: InferenceModel) -> Response:
    """Describe a model's inputs and outputs."""
    return json_answer(model.metadata())


@of_model("GET", "/ready", described.MODEL_READY)
async def model_ready(request: Request, model: InferenceModel) -> Response:
    """Say whether a model takes requests."""
    check_ready(service_of(request))
    return json_answer({"name": model.name, "ready": True})


@of_model("GET", "/config", described.CONFIG)
async def config(request: Request, model: InferenceModel) -> Response:
    """Describe a model as Triton's model configuration does."""
    return json_answer(model.config(service_of(request)))


@of_model("GET", "/stats", described.STATISTICS)
async def statistics(request: Request, model: InferenceModel) -> Response:
    """Tell how often a model was asked, by whichever protocol, and how long it took."""
    return await _statistics(service_of(request), [model])


@of_model("POST", "/infer", described.INFER)
async def infer(request: Request, model: InferenceModel) -> Response:
    """Compute a model's outputs."""
    service = service_of(request)
    if model.call.is_on_device:
        service.batcher.check_room()
    else:
        service.coder.check_room(model.bundle.id)
    header_length = request.headers.get(LENGTH_HEADER)

    def parse(body: bytes, content_type: str | None, limits: Limits) -> tuple[Inference, Any, Any]:
        check_form(content_type, header_length)
        return model.parsed(body, header_length, limits)

    media_types = (JSON,) if header_length is None else ()  # as what is behind a header is no JSON
    json_values = MAX_JSON_VALUES if model.call.takes_pixels else None
    (inference, parameters, given), deadline = await read(request, parse, media_types, json_values)
    if inference.timeout_seconds is not None:
        deadline = min(deadline, time.monotonic() + inference.timeout_seconds)
    outcome = await model.call.run(Asked(service, request, model.bundle, given, parameters, deadline))
    write = partial(written, model.name, VERSION, inference, outcome.values)
    size = sum(map(size_of, outcome.values.values()))
    if size <= QUICK_RAW_BYTES:
        response = write()
    else:
        response = await service.in_thread(request, write, "tensors", size, deadline)
    return timed(await _coded(request, response, deadline), outcome)


async def _statistics(service: Service, models: Sequence[InferenceModel]) -> Response:
    figures = await service.told([(model.bundle.id, model.operation) for model in models])
    found = [
        {"name": model.name, "version": VERSION, **told} for model, told in zip(models, figures, strict=True)
    ]
    return json_answer({"model_stats": found})


async def _coded(request: Request, response: Response, deadline: float) -> Response:
    body, is_json = bytes(response.body), response.media_type == JSON
    coding = accepted_coding(request, insisted=not is_json)  # floats and pixels hardly become smaller
    if coding is None or not is_worth_coding(body):
        return response
    if len(body) <= QUICK_ANSWER_BYTES:
        coded = deflated(body, coding)
    else:
        deflating = partial(deflated, body, coding)
        coded = await service_of(request).in_thread(request, deflating, coding, len(body), deadline)
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(coded, headers={**headers, "Content-Encoding": coding, "Vary": "Accept-Encoding"})
