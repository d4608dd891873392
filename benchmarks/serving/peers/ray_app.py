"""Ray Serve: one replica with `serve.batch`, batches of up to 32 that wait 2 ms at most.

    BUNDLE=fashion-mnist PORT=8001 python -m benchmarks.serving.peers.ray_app

As https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html; no dashboard, no access log.
"""

import os
import signal

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving.peers.model import Encoder


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=128,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},
)
class Encode:
    def __init__(self) -> None:
        self.encoder = Encoder()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def rows(self, images: list[np.ndarray]) -> list[dict[str, list[float]]]:
        return self.encoder.rows(np.stack(images))

    async def __call__(self, request: Request) -> dict[str, list[list[float]]] | str:
        if request.method == "GET":
            return "ok"
        [text] = (await request.json())["images"]
        row = await self.rows(self.encoder.decoded(text))
        return {name: [values] for name, values in row.items()}


if __name__ == "__main__":
    runtime = {"env_vars": {name: os.environ[name] for name in ("BUNDLE", "OMP_NUM_THREADS", "PYTHONPATH")}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=runtime)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Encode.bind())
    signal.pause()
