"""LitServe: batches of up to 32 that wait 2 ms at most, one worker, its queue over ZeroMQ.

    BUNDLE=fashion-mnist PORT=8001 python -m benchmarks.serving.peers.litserve_server

`fast_queue` and batching are what https://lightning.ai/docs/litserve/features/batching and its page on speed
name first; one worker, as every contender has one model on one core.
"""

from __future__ import annotations

import os
from typing import Any

import litserve
import numpy as np

from benchmarks.serving.peers.model import Encoder, Rows


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.encoder = Encoder()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # its annotation would be the body's schema
        [text] = request["images"]
        return self.encoder.decoded(text)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> Rows:
        return self.encoder.rows(images)

    def unbatch(self, output: Rows) -> Rows:
        return output

    def encode_response(self, output: dict[str, list[float]]) -> dict[str, Any]:
        return {name: [row] for name, row in output.items()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=32, batch_timeout=0.002),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
