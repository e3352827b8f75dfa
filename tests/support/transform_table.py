"""The section "Sown under a transform" of ARCHITECTURE.md, generated from the tests.

python -m tests.support.transform_table writes it.
"""

import textwrap

import jax.numpy as jnp

import sowlog
from tests.sow import test_equinox
from tests.sow.test_linen import WAYS
from tests.sow.test_transforms import CASES
from tests.support.generated import write_part
from tests.support.impossible import IMPOSSIBLE
from tests.support.ways import EAGER, EQUINOX, FUNCTIONS, JITTED

COMMAND = "python -m tests.support.transform_table"


def make_table() -> str:
    """Return the ways that tests prove equal, and the errors for the impossible ones."""
    rows = ["| sown under | LostMetricError |", "| --- | --- |"]
    rows += [f"| {case} | {_error_of(function)} |" for case, (function, _) in IMPOSSIBLE.items()]
    return "\n\n".join(
        [
            _sentence(
                "All public reducers and losses, one structure and one trace (`sow/test_ways.py`), in linen",
                [*JITTED["linen"], *EAGER["linen"]],
            ),
            *(
                _sentence(f"The same in {place}, by its own transforms", list(framework.structures))
                for place, framework in (("a function", FUNCTIONS), ("Equinox", EQUINOX))
            ),
            _sentence("In a function (`sow/test_transforms.py`)", list(CASES)),
            _sentence("In a linen module (`sow/test_linen.py`)", list(WAYS)),
            _sentence("In an Equinox module (`sow/test_equinox.py`)", list(test_equinox.CASES)),
            "\n".join(rows),
        ]
    )


def _sentence(subject: str, ways: list[str]) -> str:
    return textwrap.fill(
        f"{subject}: {'; '.join(ways)}.", 118, break_long_words=False, break_on_hyphens=False
    )


def _error_of(function: object) -> str:
    try:
        sowlog.collect(function)(jnp.ones(3))
    except sowlog.LostMetricError as error:
        return str(error).splitlines()[0].replace("|", "\\|")
    raise AssertionError(f"{function} sows in silence")


if __name__ == "__main__":
    write_part(COMMAND, make_table())
