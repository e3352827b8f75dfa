"""The table "transform x what happens" of ARCHITECTURE.md, made from the tests.

python -m tests.support.transform_table writes it.
"""

from pathlib import Path

import sowlog
from tests.sow.test_lost_metrics import DROPPED, RAW, X, model_of
from tests.support.ways import EAGER, JITTED

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
BEGIN, END = "<!-- begin: python -m tests.support.transform_table -->", "<!-- end -->"


def make_table() -> str:
    """Returns the table: what `test_ways.py` proves right, and what `test_lost_metrics.py` refuses."""
    rows = ["| sown under | what happens |", "| --- | --- |"]
    rows += [f"| {way} | one number, one structure, one trace |" for way in (*JITTED, *EAGER)]
    rows += [f"| {case} | error: {_error_of(call)} |" for case, (call, _, _) in DROPPED.items()]
    rows += [
        f"| {transform} in a module | error: {_error_of(call)} |" for transform, (call, _) in RAW.items()
    ]
    return "\n".join(rows)


def table_in(text: str) -> str:
    """Returns the table that a text holds between its marks."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def _error_of(call: object) -> str:
    try:
        sowlog.collect(model_of(call).apply)({}, X)
    except sowlog.LostMetricError as error:
        return str(error).splitlines()[0].replace("|", "\\|")
    raise AssertionError(f"{call} sows in silence")


if __name__ == "__main__":
    before, _, rest = ARCHITECTURE.read_text().partition(BEGIN)
    ARCHITECTURE.write_text(f"{before}{BEGIN}\n{make_table()}\n{END}{rest.partition(END)[2]}")
