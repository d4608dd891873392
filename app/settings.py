"""Settings from the environment: every field is the variable VAE_<FIELD>."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "VAE_"
Names = Annotated[tuple[str, ...], NoDecode]
LEAST_KEY_CHARACTERS = 16
Key = Annotated[SecretStr, Field(min_length=LEAST_KEY_CHARACTERS)]
Precision = Literal["float32", "tf32", "bf16"]


class Settings(BaseSettings):
    """How the service runs. Wrong values and unknown VAE_ variables are errors at start-up."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    models: Names = Field(
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
        default="float32", description="float32, tf32 (CUDA only) or bf16, faster where the device has it"
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
        description="images of a batch; 256 on a GPU by default, 32 on a CPU, or more where that is faster",
    )
    max_queued_images: int = Field(
        default=8192, ge=1, description="images that may wait; more is answered 429"
    )
    max_queued_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="bytes of bodies on their way in, of images that wait, and of answers that wait to be "
        "written, each; more is answered 429",
    )
    max_queued_seconds: float = Field(
        default=1.5,
        gt=0,
        description="of work, as measured, that may wait before a request, its longest batch not counted; "
        "half of the deadline at most; more is answered 429",
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
    head_seconds: float = Field(
        default=10.0,
        gt=0,
        description="for a request's head to arrive, else the connection is closed",
    )
    reading_seconds: float = Field(
        default=60.0, gt=0, description="for a client that hardly reads its answer, before it is cut off"
    )
    allowed_hosts: Names = Field(
        default=("localhost", "127.0.0.1", "[::1]"),
        min_length=1,
        description="names that requests may be for, separated by commas; * for any",
    )
    api_keys: Annotated[tuple[Key, ...], NoDecode] = Field(
        default=(), description="keys, separated by commas, of which requests must have one; none by default"
    )
    api_keys_file: Path | None = Field(
        default=None, description="file of more keys, one a line; # begins a comment"
    )
    open_metrics: bool = Field(default=False, description="GET /metrics without a key")
    cors_origins: Names = Field(
        default=(), description="origins whose pages may call, separated by commas; none by default"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="of the log")
    log_format: Literal["text", "json"] = Field(
        default="text", description="text, or json: an object a line, with the request's id and trace"
    )
    access_log: bool = Field(default=False, description="one line a request")
    tracing: bool = Field(
        default=False,
        description="OpenTelemetry spans, sent where `OTEL_EXPORTER_OTLP_ENDPOINT` says, by OTLP over HTTP",
    )

    @field_validator("models", "allowed_hosts", "cors_origins", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @model_validator(mode="after")
    def _read_keys(self) -> Self:
        self.keys()
        return self

    @property
    def bounded_queued_seconds(self) -> float:
        """Seconds of work that may wait, so that a request which waits for them is still answered in time."""
        return min(self.max_queued_seconds, self.deadline_seconds / 2)

    def keys(self) -> list[str]:
        """Return every key that a request may have.

        Raises ValueError for a file that cannot be read or has no key, and for a key that is too short.
        """
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file is None:
            return keys
        try:
            lines = self.api_keys_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"api_keys_file cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if key := line.partition("#")[0].strip():
                if len(key) < LEAST_KEY_CHARACTERS:
                    least = f"a key has at least {LEAST_KEY_CHARACTERS} characters"
                    raise ValueError(f"line {number} of {self.api_keys_file} has {len(key)}; {least}")
                keys.append(key)
        if not keys:
            raise ValueError(f"{self.api_keys_file} has no key")
        return keys


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the VAE_ variables that are no setting: typing errors that would pass unnoticed."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
