"""Settings from the environment: every field is the variable VAE_<FIELD>."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "VAE_"
Precision = Literal["float32", "tf32", "bf16"]


class Settings(BaseSettings):
    """How the service runs. Wrong values and unknown VAE_ variables are errors at start-up."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("fashion-mnist",),
        min_length=1,
        description="bundles to load, separated by commas: ids of shipped bundles, or paths (with a slash); "
        "the first is the default",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N"
    )
    precision: Precision = Field(
        default="float32", description="float32, tf32 or bf16; the last two on CUDA only"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch, and of the codec; torch's choice by default"
    )
    frontends: int = Field(
        default=1,
        ge=1,
        le=64,
        description="HTTP processes; with 2 or more the models run in one further process",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="images in one batch on the device; 32 on a CPU and 256 on a GPU by default",
    )
    max_queued_images: int = Field(
        default=8192, ge=1, description="images that may wait; more is answered 429"
    )
    max_queued_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="bytes of bodies on their way in, and again of images that wait; more is answered 429",
    )
    max_body_bytes: int = Field(default=32 << 20, ge=1, description="bytes of a request's body")
    max_images: int = Field(default=4096, ge=1, description="images or latents in one request")
    max_pixels: int = Field(default=1 << 24, ge=1, description="pixels of one encoded image, before fitting")
    max_samples: int = Field(default=100_000, ge=1, description="n of one /sample request")
    max_score_samples: int = Field(default=1000, ge=1, description="samples (K) of one /score request")
    deadline_seconds: float = Field(
        default=30.0,
        gt=0,
        description="for a request's body to arrive, and from there to its answer, else 504",
    )
    drain_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        description="between readiness off and closing the port, for load balancers to notice",
    )
    grace_seconds: int = Field(default=30, ge=1, description="for work in flight after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="of the log")
    log_format: Literal["text", "json"] = Field(
        default="text", description="text, or json: an object a line, with the request's id and trace"
    )
    access_log: bool = Field(default=False, description="one line a request")
    tracing: bool = Field(
        default=False,
        description="OpenTelemetry spans, sent where `OTEL_EXPORTER_OTLP_ENDPOINT` says, by OTLP over HTTP",
    )

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the VAE_ variables that are no setting: typing errors that would pass unnoticed."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
