import copy
import pickle

import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from sowlog.writers import Record


def records():
    """Return a record of each kind."""
    memory = MemoryWriter()
    log = sowlog.Logger("unused", writers=[memory], fold="x/*", on_nonfinite="ignore")
    log.hparams({"optimizer": {"name": "adam"}}, metrics=["loss"])
    log.layout({"loss": {"both": ["loss", "eval/loss"]}})
    log(0, {"x": [1.0, 2.0], "loss": np.nan})
    log.grid(1, "grid", np.zeros((2, 8, 8, 1)))
    log.pr_counts(2, "pr", np.eye(2))
    log.text(3, "text", "text")
    log.close()
    return memory.records


@pytest.mark.parametrize("copied", [lambda record: pickle.loads(pickle.dumps(record)), copy.deepcopy])
def test_records_can_be_pickled_and_copied(copied):
    """As by a writer that hands them to another process."""
    for record in records():
        other = copied(record)
        assert repr(other) == repr(record)
        for name in Record.__slots__:
            old, new = getattr(record, name), getattr(other, name)
            if name == "unfolded":
                assert (new and new.tags) == (old and old.tags)
            elif isinstance(old, np.ndarray):
                np.testing.assert_array_equal(new, old)
            elif name in ("images", "pr_curves"):
                np.testing.assert_equal(dict(new), dict(old))
            else:
                assert new == old
