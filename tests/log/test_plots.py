"""The rules that all calls with arrays have in common: images, grids, confusion matrices and curves."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.support.odd_writers import GatedWriter


class Call(NamedTuple):
    """A call of a logger.

    Attributes:
        method: the method.
        kind: the kind of its tag.
        noun: the values in an error.
        arrays: its arguments.
        options: further ones, by name.
    """

    method: str
    kind: str
    noun: str
    arrays: tuple[np.ndarray, ...]
    options: Mapping[str, np.ndarray] = MappingProxyType({})

    def make(self, log: sowlog.Logger, step: int, tag: object, place=lambda array: array) -> None:
        """Call the method with its arrays at a place."""
        options = {name: place(array) for name, array in self.options.items()}
        getattr(log, self.method)(step, tag, *map(place, self.arrays), **options)


LABELS, SCORES = np.array([False, True, True]), np.array([0.25, 0.5, 1.0], np.float32)
IMAGES = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
CALLS = [
    Call("image", "an image", "image", (IMAGES[0],)),
    Call("grid", "an image", "grid", (IMAGES,)),
    Call("grid", "an image", "grid", (IMAGES,), {"labels": np.arange(4)}),
    Call("confusion", "an image", "confusion matrix", (np.array([[3, 1], [0, 4]]),)),
    Call("pr_curve", "a PR curve", "PR curve", (LABELS, SCORES)),
    Call("pr_curve", "a PR curve", "PR curve", (LABELS, SCORES), {"weights": np.ones(3, np.float32)}),
    Call("pr_counts", "a PR curve", "PR curve", (np.array([[0, 1, 2], [3, 0, 0]]),)),
]
of_each = pytest.mark.parametrize("call", CALLS, ids=lambda call: "-".join((call.method, *call.options)))


@of_each
def test_a_tag_is_a_name_of_one_kind(call):
    """TensorBoard shows the first kind of a tag alone."""
    with sowlog.Logger("unused", writers=[]) as log:
        for tag in ("", None, 3):
            with pytest.raises(
                ValueError, match=rf"the {call.noun} has the tag {tag!r}: .*log\.{call.method}"
            ):
                call.make(log, 0, tag)
        log(0, {"loss": 1.0})
        with pytest.raises(ValueError, match=f"loss is logged as {call.kind} and was a metric before"):
            call.make(log, 0, "loss")
        call.make(log, 0, "x")
        call.make(log, 1, "x")
        with pytest.raises(ValueError, match=f"x is logged as text and was {call.kind} before"):
            log.text(2, "x", "text")
        with pytest.raises(ValueError, match=f"x is logged as a metric and was {call.kind} before"):
            log(2, {"x": 1.0})


@of_each
def test_odd_bytes_in_a_tag_are_escaped(call, tmp_path):
    """As in a text; the record would be lost on the writer thread."""
    with sowlog.Logger(tmp_path) as log:
        call.make(log, 0, "x\udcff")
    run = sowlog.read(tmp_path)
    assert [*run.images, *run.pr_curves] == [r"x\udcff"]


def only(index, odd):
    """Return the function that makes the array of an index odd; options have the first."""
    places = iter(range(9))
    return lambda array: odd(array) if next(places) == index else array


def make_traced(call, log, index, zero):
    """Make a call whose array of an index is traced with a zero."""
    call.make(log, 0, "x", only(index, lambda array: array + zero))


def deleted(array):
    """Return an array on the device that was donated."""
    array = jnp.array(array)
    array.delete()
    return array


@of_each
def test_tracers_and_deleted_and_masked_arrays_are_refused(call):
    """At the call: a donated array would fail on the writer thread, and a mask would be lost there."""
    with sowlog.Logger("unused", writers=[]) as log:
        for index in range(len(call.arrays) + len(call.options)):
            with pytest.raises(TypeError, match=f"the .*{call.noun} x is a tracer: return it"):
                jax.eval_shape(partial(make_traced, call, log, index), np.int8(0))
            with pytest.raises(RuntimeError, match=f"{call.noun} x is an array that was deleted: it was don"):
                call.make(log, 0, "x", only(index, deleted))
            with pytest.raises(TypeError, match=f"{call.noun} x is a masked array, whose mask would be lost"):
                call.make(log, 0, "x", only(index, np.ma.array))


@of_each
def test_the_training_thread_neither_waits_nor_draws(call):
    """It returns while the writer hangs, and later changes of the arrays on the host change nothing."""
    gate, held = GatedWriter(), []

    def changing(array):
        held.append(array.copy())
        return held[-1]

    with sowlog.Logger("unused", writers=[gate], every=2) as log:
        with jax.transfer_guard_device_to_host("disallow"):
            call.make(log, 0, "host", changing)
            call.make(log, 0, "device", jnp.asarray)
            call.make(log, 1, "skipped", changing)
        for array in held:
            array[...] = 0
        assert gate.records == []
        gate.open.set()
    host, device = ({**record.images, **record.pr_curves} for record in gate.records)
    np.testing.assert_array_equal(host["host"], device["device"])
    assert f"{call.kind.partition(' ')[2]} host" in repr(gate.records[0])
    assert host["host"].any()
    with pytest.raises(ValueError, match="read-only"):
        host["host"][:] = 0
