"""The options of each kind of data."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import AfterValidator, Field, Tag

from train.config.base import OWN, Count, Options, disagree
from train.config.own import check_reference


class DigitsData(Options):
    """scikit-learn's handwritten digits: 1797 images of 8 by 8 pixels, a fifth of them held out."""

    arrays: ClassVar[tuple[str, ...]] = ("image", "label")
    name: Literal["digits"]
    batch_size: Annotated[int, Field(ge=2, le=1437)] = Field(
        64, description="Images of a training step; the last held-out batch is the remainder."
    )


class TextData(Options):
    """Bytes of text; the last tenth is held out."""

    arrays: ClassVar[tuple[str, ...]] = ("tokens",)
    name: Literal["text"]
    path: str | None = Field(
        None, description="A text file, or a folder of them; null is the Python standard library's source."
    )
    max_bytes: Annotated[int, Field(ge=1)] = Field(16_000_000, description="Read no more bytes than this.")
    length: Count = Field(64, description="Bytes of one sequence.")
    batch_size: Count = Field(16, description="Sequences of a training step.")
    eval_batches: Count = Field(32, description="Held-out batches an evaluation sees, spread evenly.")


def _check_plain(value: object, depth: int = 0) -> object:
    """Refuse values that YAML does not return as they were written: dates, NaN, keys that are no text."""
    if depth > 20:
        raise disagree("", "nested too deeply")
    if isinstance(value, Mapping):
        for key, inner in cast(Mapping[object, object], value).items():
            _check_plain(inner, depth + 1)
            if not isinstance(key, str):
                raise disagree("", f"a key must be text, got {key!r}")
    elif isinstance(value, list):
        for inner in cast(list[object], value):
            _check_plain(inner, depth + 1)
    elif not isinstance(value, str | bool | int | float | None) or value in (math.inf, -math.inf):
        raise disagree("", f"must be text, numbers, true, false or null, got {value!r}")
    elif value != value:  # noqa: PLR0124 - NaN alone differs from itself
        raise disagree("", "must be finite numbers, got nan")
    return value


class FunctionData(Options):
    """Your own data: a Python function, imported and called. No setting but this and task.name runs code.

    It returns a dict of arrays with the examples on the first axis, or an iterable of batches (dicts of
    arrays); or a pair of either kind, the second of them held out.
    """

    form: ClassVar[str] = "module:function"
    name: Annotated[str, AfterValidator(partial(check_reference, form="module:function"))] = Field(
        description="module:function, found as `import module` finds it from the working folder."
    )
    arguments: Annotated[dict[str, Any], AfterValidator(_check_plain)] = Field(
        {}, description="Keyword arguments of the function."
    )
    batch_size: Count = Field(
        64,
        description="Examples of a batch; the last held-out one is the remainder. An iterable makes its "
        "own batches, and a smaller last one is evaluated, not trained on.",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of the arrays that is held out, unless the function returns a pair."
    )
    eval_batches: Count = Field(
        32,
        description="Number of held-out batches of an iterable: those of the second of a pair, or else its "
        "first batches. They must be the same at each call.",
    )


DataOptions = (
    Annotated[DigitsData, Tag("digits")]
    | Annotated[TextData, Tag("text")]
    | Annotated[FunctionData, Tag(OWN)]
)
