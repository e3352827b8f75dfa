"""Trees of states as tables of a notebook, after `%load_ext sowlog`.

Such a tree is a dict, which shows as text: IPython alone can show it in another way.
"""

from collections.abc import Iterator
from typing import Any, cast

from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.html import results_table
from sowlog._tree.layout import is_packed
from sowlog._tree.results import compute
from sowlog._tree.tags import is_state


def load_ipython_extension(ipython: Any) -> None:
    """Show dicts of states, or of packed results, as tables by tag; called by `%load_ext sowlog`."""
    ipython.display_formatter.formatters["text/html"].for_type(dict, _tree_html)


def unload_ipython_extension(ipython: Any) -> None:
    """Show a dict as text again; called by `%unload_ext sowlog`."""
    ipython.display_formatter.formatters["text/html"].pop(dict, None)


def _tree_html(tree: dict[Any, Any]) -> str | None:
    """Return the table of a tree of metrics, None for any other dict, which is then shown as text."""
    if not any(is_state(each) or is_packed(each) for each in _leaves_of(tree)):
        return None
    try:
        results = compute(tree)
        histograms = {tag: each for tag, each in results.items() if isinstance(each, HistogramValue)}
        scalars = {tag: each for tag, each in results.items() if tag not in histograms}
        return results_table("Results", scalars, histograms)
    except Exception:
        # Beside its states it holds other objects, or arrays that are traced or deleted.
        return None


def _leaves_of(tree: dict[Any, Any]) -> Iterator[object]:
    """Yield what the dicts of a tree hold; a dict may hold itself."""
    left, known = [tree], {id(tree)}
    while left:
        for each in left.pop().values():
            if not isinstance(each, dict):
                yield each
            elif id(each) not in known:
                known.add(id(each))
                left.append(cast(dict[Any, Any], each))
