"""Ask a vaeserve service: arrays, PIL images or paths in, typed results out.

    images, latents ─► bodies ─► calls ─► Client, AsyncClient ─► the service
                       typed results ◄── answers, errors ◄──┘  (attempts: again, or no more?)

Everything but `client` and `aio`, which send and wait, knows no transport.
"""

from vaeserve_client.aio import AsyncClient
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
    "UnknownModel",
    "VaeserveError",
]
