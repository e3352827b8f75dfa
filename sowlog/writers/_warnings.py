"""Warnings about lost, late and hidden records, issued at the line of the user."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_HERE = f"{Path(__file__).parents[1]}{os.sep}"


class LossWarning(RuntimeWarning):
    """Records are late, dropped by the rule `on_full`, hidden by TensorBoard, or of a kind that is not kept.

    Example:
        >>> import tempfile, warnings, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     log(9, {"loss": 1.0})
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", sowlog.LossWarning)
        ...     with sowlog.Logger(logdir) as log:
        ...         log(0, {"loss": 2.0})
        Traceback (most recent call last):
            ...
        sowlog.LossWarning: step 0 of loss is logged to ..., where an earlier run reached step 9: ...
    """


def warn_user(warning: Warning) -> None:
    """Issue a warning at the innermost line outside of sowlog, the line of the call."""
    frame, level = sys._getframe(1), 2  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)
