"""Ask a vaeserve service: arrays, PIL images or paths in, typed results out.

    images, latents ─► bodies ─► calls ─► sending, async_sending ─► the service
                       typed results ◄── answers, errors ◄──┘  (attempts: again, or no more?)

`client` and `async_client` are the methods; `sending` and `async_sending`, beneath them, send and wait, with
`exchange` in common. Nothing else imports httpx.
"""

from vaeserve_client.async_client import AsyncClient
from vaeserve_client.attempts import Retries
from vaeserve_client.bodies import Image, Images, Payload
from vaeserve_client.calls import Effort, Fit, Prior
from vaeserve_client.client import Client
from vaeserve_client.errors import (
    AnswerError,
    ConnectionFailed,
    DeadlineExceeded,
    DeviceFault,
    InvalidRequest,
    NotReady,
    OtherModel,
    Overloaded,
    ProblemError,
    ServiceDeadline,
    Unauthorized,
    UnknownModel,
    VaeserveError,
)
from vaeserve_client.results import Compressed, Encoded, Model, Models, Pictures, Samples, Scores

__all__ = [
    "AnswerError",
    "AsyncClient",
    "Client",
    "Compressed",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DeviceFault",
    "Effort",
    "Encoded",
    "Fit",
    "Image",
    "Images",
    "InvalidRequest",
    "Model",
    "Models",
    "NotReady",
    "OtherModel",
    "Overloaded",
    "Payload",
    "Pictures",
    "Prior",
    "ProblemError",
    "Retries",
    "Samples",
    "Scores",
    "ServiceDeadline",
    "Unauthorized",
    "UnknownModel",
    "VaeserveError",
]
