"""Plain FastAPI, as people write it.

    BUNDLE=fashion-mnist uvicorn benchmarks.serving.peers.plain_fastapi:app --no-access-log

One image a request as base64 in JSON, answered with lists of floats; or an .npy body, answered with
safetensors. uvicorn takes uvloop and httptools by itself, as both are installed.
"""

from __future__ import annotations

import io

import numpy as np
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from safetensors.torch import save

from benchmarks.serving.peers.model import Encoder

encoder = Encoder()
app = FastAPI()


class EncodeRequest(BaseModel):
    images: list[str]


class EncodeResponse(BaseModel):
    mu: list[list[float]]
    logvar: list[list[float]]


def encode_images(request: EncodeRequest) -> EncodeResponse:
    mu, logvar = encoder.posterior(np.stack([encoder.decoded(text) for text in request.images]))
    return EncodeResponse(mu=mu.tolist(), logvar=logvar.tolist())


# People write it either way, and which is faster depends on the model and the cores: both are measured.
@app.post("/encode")
async def encode(request: EncodeRequest) -> EncodeResponse:
    return encode_images(request)


@app.post("/encode-in-thread")
def encode_in_thread(request: EncodeRequest) -> EncodeResponse:
    return encode_images(request)


@app.post("/encode-npy")
async def encode_npy(request: Request) -> Response:
    images = np.load(io.BytesIO(await request.body()))
    mu, logvar = encoder.posterior(images)
    body = save({"mu": mu.contiguous(), "logvar": logvar.contiguous()})
    return Response(body, media_type="application/x-safetensors")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
