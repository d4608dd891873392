"""BentoML: a batchable API, whose dispatcher learns how large batches may be.

    BUNDLE=fashion-mnist bentoml serve benchmarks.serving.peers.bento_service:Encode --port 8001

As https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html: a list in, a list out.
"""

import bentoml
import numpy as np

from benchmarks.serving.peers.model import Encoder


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Encode:
    def __init__(self) -> None:
        self.encoder = Encoder()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def encode(self, images: list[str]) -> list[dict[str, list[float]]]:
        return self.encoder.rows(np.stack([self.encoder.decoded(text) for text in images]))
