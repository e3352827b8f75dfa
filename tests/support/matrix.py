"""Products of cases: a few of them in every test run, all of them by `make matrix`."""

import os
from collections.abc import Iterable

IS_WHOLE = os.environ.get("SOWLOG_MATRIX") == "all"


def cases(all_of_them: Iterable[str], *, default: Iterable[str]) -> list[str]:
    """Return the cases to run, of which the default ones cover each row and each column of the product."""
    return list(all_of_them if IS_WHOLE else default)
