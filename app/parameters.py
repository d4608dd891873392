"""What parameters may be, by whichever protocol they come; `tasks` checks the limits that are settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from codec.lossy import BEST_QUALITY
from codec.payload import LARGEST_ERROR
from models.noise import MAX_SEED

Samples = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
MaxError = Annotated[int, Field(ge=0, le=LARGEST_ERROR)]
Quality = Annotated[int, Field(ge=1, le=BEST_QUALITY)]
TargetBytes = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
