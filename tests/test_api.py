"""The public names: a contract."""

import doctest
import inspect

import pytest

import sowlog
import sowlog.testing

PUBLIC = {name: getattr(sowlog, name) for name in sowlog.__all__}
FUNCTIONS = {
    **{name: value for name, value in PUBLIC.items() if inspect.isfunction(value) or inspect.isclass(value)},
    **{f"testing.{name}": getattr(sowlog.testing, name) for name in sowlog.testing.__all__},
    **{f"Logger.{name}": getattr(sowlog.Logger, name) for name in ("image", "hparams")},
}
# Returned or raised, not called: their example is that of the function that does so.
RESULTS = {
    "CorruptEventFile",
    "HistogramValue",
    "LossWarning",
    "LostMetricError",
    "Packed",
    "QueueFullError",
    "Run",
    "State",
    "WriterError",
    "sow_loss",
    "testing.HostSyncError",
}


def test_all_lists_the_public_names():
    """What a user can reach without an underscore is what __all__ lists."""
    reachable = {name for name in vars(sowlog) if not name.startswith("_")}
    assert reachable == set(sowlog.__all__)
    assert list(sowlog.__all__) == sorted(sowlog.__all__)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - RESULTS))
def test_every_public_name_has_an_example(name):
    """Each public function and class shows how it is used; the examples run as doctests."""
    finder = doctest.DocTestFinder(recurse=False)
    assert any(test.examples for test in finder.find(FUNCTIONS[name], name)), f"{name} has no example"


def test_star_import_is_clean():
    """`from sowlog import *` brings exactly the public names."""
    namespace: dict[str, object] = {}
    exec("from sowlog import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(sowlog.__all__)
