"""Trees of states as tables of a notebook, after `%load_ext sowlog`.

Such a tree is a dict, which shows as text: IPython alone can show it in another way.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.html import results_table
from sowlog._tree.layout import is_packed
from sowlog._tree.results import compute
from sowlog._tree.tags import is_state


def load_ipython_extension(ipython: Any) -> None:
    """Show dicts of states, or of packed results, as tables by tag; called by `%load_ext sowlog`."""
    html = _html_of(ipython)
    html.for_type(dict, _TreeHtml(html.type_printers.get(dict)))


def unload_ipython_extension(ipython: Any) -> None:
    """Show a dict as before; called by `%unload_ext sowlog`."""
    html = _html_of(ipython)
    shown = html.type_printers.get(dict)
    # A formatter that the user has registered since then stays.
    if isinstance(shown, _TreeHtml):
        html.pop(dict)
        if shown.before is not None:
            html.for_type(dict, shown.before)


def _html_of(ipython: Any) -> Any:
    """Return the formatter of a shell's HTML."""
    return ipython.display_formatter.formatters["text/html"]


class _TreeHtml:
    """Formats dicts, of which those of subclasses may have HTML of their own.

    Args:
        before: the formatter of dicts that the user has registered before, or None.
    """

    def __init__(self, before: Callable[[Any], str | None] | None) -> None:
        self.before = before

    def __call__(self, tree: dict[Any, Any]) -> str | None:
        """Return the table of a tree of metrics, and of any other dict what IPython would show without it."""
        own = getattr(type(tree), "_repr_html_", None)
        table = _table_of(tree) if own is None else None
        others = self.before or own
        return table if table is not None or others is None else others(tree)


def _table_of(tree: dict[Any, Any]) -> str | None:
    """Return the table of a tree of metrics, None for any other dict."""
    try:
        if not any(is_state(each) or is_packed(each) for each in _leaves_of(tree)):
            return None
        results = compute(tree)
        histograms = {tag: each for tag, each in results.items() if isinstance(each, HistogramValue)}
        scalars = {tag: each for tag, each in results.items() if tag not in histograms}
        return results_table("Results", scalars, histograms)
    except Exception:
        # Beside its states it holds other objects, or arrays that are traced or deleted.
        return None


def _leaves_of(tree: dict[Any, Any]) -> Iterator[object]:
    """Yield the leaves in the dicts of a tree; a dict may hold itself."""
    left, known = [tree], {id(tree)}
    while left:
        for each in left.pop().values():
            if not isinstance(each, dict):
                yield each
            elif id(each) not in known:
                known.add(id(each))
                left.append(cast(dict[Any, Any], each))
