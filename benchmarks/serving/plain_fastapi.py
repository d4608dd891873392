"""The peer: the same model behind plain FastAPI, as people write it.

    BUNDLE=fashion-mnist uvicorn benchmarks.serving.plain_fastapi:app --no-access-log

One image a request as base64 in JSON, answered with lists of floats; or an .npy body, answered with
safetensors. uvicorn takes uvloop and httptools by itself, as both are installed.
"""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import save

from models.bundle import bundle_path, load_bundle

bundle = load_bundle(bundle_path(os.environ["BUNDLE"]))
model = bundle.model
channels, height, width = bundle.config.input.shape

app = FastAPI()


class EncodeRequest(BaseModel):
    images: list[str]


class EncodeResponse(BaseModel):
    mu: list[list[float]]
    logvar: list[list[float]]


def decode_image(text: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("L" if channels == 1 else "RGB")
    return np.array(image).reshape(height, width, channels)


@torch.no_grad()
def run_model(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return model.encode(model.normalise(model.to_levels(pixels)))


def encode_images(request: EncodeRequest) -> EncodeResponse:
    mu, logvar = run_model(np.stack([decode_image(text) for text in request.images]))
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
    mu, logvar = run_model(images)
    body = save({"mu": mu.contiguous(), "logvar": logvar.contiguous()})
    return Response(body, media_type="application/x-safetensors")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
