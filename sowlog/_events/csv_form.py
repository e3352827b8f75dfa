"""Cells of CSV, as RFC 4180 has them."""

import re

_SPECIAL = re.compile('[",\r\n]')


def csv_cell(text: str) -> str:
    """Return a text as a cell, in quotes if it contains a comma, a quote or a line end.

    The csv module of Python quotes a line end only if it ends the rows as well.
    """
    return '"{}"'.format(text.replace('"', '""')) if _SPECIAL.search(text) else text
