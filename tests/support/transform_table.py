"""The section "Sown under a transform" of ARCHITECTURE.md, generated from the tests.

python -m tests.support.transform_table writes it.
"""

import textwrap

import sowlog
from tests.sow.test_lost_metrics import DROPPED, RAW, X, model_of
from tests.support.generated import write_part
from tests.support.ways import EAGER, JITTED

COMMAND = "python -m tests.support.transform_table"


def make_table() -> str:
    """Return the ways that `sow/test_ways.py` proves equal, and the errors of `sow/test_lost_metrics.py`."""
    ways = "; ".join((*JITTED, *EAGER))
    right = f"All of these compute one number, with one structure and one trace: {ways}."
    rows = ["| sown under | LostMetricError |", "| --- | --- |"]
    rows += [f"| {case} | {_error_of(call)} |" for case, (call, _, _) in DROPPED.items()]
    rows += [f"| {transform} in a module | {_error_of(call)} |" for transform, (call, _) in RAW.items()]
    return "\n".join([textwrap.fill(right, 118, break_long_words=False, break_on_hyphens=False), "", *rows])


def _error_of(call: object) -> str:
    try:
        sowlog.collect(model_of(call).apply)({}, X)
    except sowlog.LostMetricError as error:
        return str(error).splitlines()[0].replace("|", "\\|")
    raise AssertionError(f"{call} sows in silence")


if __name__ == "__main__":
    write_part(COMMAND, make_table())
