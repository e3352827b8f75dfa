"""Parts of the sections of a configuration: the base class, types of fields, and an error."""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Better = Literal["lower", "higher"]
"""The direction in which a metric improves; of a task, the first of its results."""


def _check_glob(glob: str) -> str:
    if not all(glob.split("/")):
        raise disagree("", f'must be a tag or a glob of tags, such as loss or eval/*, got "{glob}"')
    return glob


TagGlob = Annotated[str, AfterValidator(_check_glob)]
"""A glob of the tags of logged scalars."""

OWN = "own"
"""The choice of a section whose `name` is a user's module:name."""


class Options(BaseModel):
    """A section of the configuration: unknown keys, other types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def disagree(key: str, message: str) -> PydanticCustomError:
    """An error about fields that are valid each by itself, reported at `key` of the section."""
    return PydanticCustomError("disagree", "{message}", {"key": key, "message": message})


def tag_of(section: object) -> str | None:
    """Return the choice that a section's `name` makes in its union; None if it has no name."""
    if isinstance(section, Mapping):
        name = cast(Mapping[str, object], section).get("name")
    else:
        name = getattr(section, "name", None)
    return OWN if isinstance(name, str) and ":" in name else None if name is None else str(name)
