"""What the sections of a configuration are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]


Positive = Annotated[float, Field(gt=0)]


NonNegative = Annotated[float, Field(ge=0)]


Count = Annotated[int, Field(ge=1)]


Better = Literal["lower", "higher"]
"""Which way a metric gets better; of a task, the first of its results."""


class Options(BaseModel):
    """A section of the configuration: unknown keys, other types, NaN and infinity are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def disagree(key: str, message: str) -> PydanticCustomError:
    """An error about fields that are valid each by itself, reported at `key` of the section."""
    return PydanticCustomError("disagree", "{message}", {"key": key, "message": message})
