"""FastAPI with a good batcher: what waits when the model is free is the next batch, which runs in a thread.

BUNDLE=fashion-mnist uvicorn benchmarks.serving.peers.batched_fastapi:app --no-access-log
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response

from benchmarks.serving.peers.model import Encoder

MAX_BATCH = 32
encoder = Encoder()
waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future[Any]]] = asyncio.Queue()


async def run_batches() -> None:
    while True:
        batch = [await waiting.get()]
        while len(batch) < MAX_BATCH and not waiting.empty():
            batch.append(waiting.get_nowait())
        rows = await asyncio.to_thread(encoder.rows, np.stack([image for image, _ in batch]))
        for (_, answer), row in zip(batch, rows, strict=True):
            answer.set_result(row)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    running = asyncio.create_task(run_batches())
    yield
    running.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/encode")
async def encode(request: Request) -> Response:
    answers = []
    for text in orjson.loads(await request.body())["images"]:
        answers.append(asyncio.get_running_loop().create_future())
        waiting.put_nowait((encoder.decoded(text), answers[-1]))
    rows = await asyncio.gather(*answers)
    document = {name: [row[name] for row in rows] for name in ("mu", "logvar")}
    return Response(orjson.dumps(document), media_type="application/json")


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
