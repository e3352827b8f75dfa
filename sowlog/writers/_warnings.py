"""Warnings about what is logged, issued at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_HERE = f"{Path(__file__).parents[1]}{os.sep}"


class LossWarning(RuntimeWarning):
    """Records that are late, that were dropped by the rule that was asked for, or that TensorBoard hides."""


def warn_user(warning: Warning) -> None:
    """Issue a warning at the innermost line outside of sowlog, where the call came from."""
    frame, level = sys._getframe(1), 2  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)
