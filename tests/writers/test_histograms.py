"""Histograms in TensorBoard's histogram and distribution tabs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from tests.support.tensorboard_reading import EventAccumulator, tensorboard_scalars

pytestmark = pytest.mark.usefixtures("light_compilation")

SAMPLE = np.random.default_rng(0).normal(2.0, 5.0, 10_000).astype(np.float32)


def _logged(path, *values):
    """Return the events that TensorBoard reads of one histogram per step."""
    step = jax.jit(lambda x: sowlog.pack({"act": sowlog.histogram.of(x), "mean": sowlog.mean.of(x)}))
    with sowlog.Logger(path) as log:
        for index, value in enumerate(values):
            log(index, step(jnp.asarray(value)))
    reader = EventAccumulator(str(path), size_guidance={"histograms": 0, "scalars": 0})
    reader.Reload()
    return reader.Histograms("act") if "act" in reader.Tags()["histograms"] else []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensorboard_reads_the_counts_that_numpy_finds(tmp_path, dtype):
    """NumPy counts the same elements between the written limits; bounds and moments are exact."""
    (event,) = _logged(tmp_path, jnp.asarray(SAMPLE, dtype))
    exact = np.asarray(jnp.asarray(SAMPLE, dtype).astype(jnp.float32), np.float64)
    value = event.histogram_value
    assert (value.min, value.max, value.num) == (exact.min(), exact.max(), exact.size)
    assert value.sum == pytest.approx(exact.sum(), rel=1e-5)
    assert value.sum_squares == pytest.approx(np.sum(exact**2), rel=1e-6)
    # Left edges belong to a bin of positive values, right edges to one of negative values.
    limits = np.array([value.min, *value.bucket_limit])
    nudged = np.where(limits < 0, np.nextafter(limits, np.inf), limits)
    nudged[0], nudged[-1] = value.min, value.max
    np.testing.assert_array_equal(value.bucket, np.histogram(exact, nudged)[0])


def test_a_constant_is_one_bucket(tmp_path):
    """Every element in one bucket that ends at the constant."""
    (event,) = _logged(tmp_path, np.full(100, 7.25, np.float32))
    value = event.histogram_value
    assert (list(value.bucket), list(value.bucket_limit)) == ([100.0], [7.25])
    assert (value.min, value.max) == (7.25, 7.25)


def test_zeros_are_a_histogram(tmp_path):
    """All zeros: one bucket around 0."""
    (event,) = _logged(tmp_path, np.zeros(10, np.float32))
    assert (list(event.histogram_value.bucket), event.histogram_value.max) == ([10.0], 0.0)


def test_nothing_finite_writes_no_histogram_but_a_count(tmp_path):
    """A step of NaN alone has no histogram, and `act/nonfinite` counts its elements."""
    with pytest.warns(sowlog.NonfiniteWarning, match="at step 1 act/nonfinite counts 2 elements"):
        events = _logged(tmp_path, [1.0, 2.0], [np.nan, np.nan])
    assert [event.step for event in events] == [0]
    nonfinite = tensorboard_scalars(tmp_path)["act/nonfinite"]
    assert (nonfinite.steps, nonfinite.values) == ([1], [2.0])


def test_values_beyond_the_bins_have_finite_limits(tmp_path):
    """The outermost bins are open, but the written limits end at the largest element."""
    (event,) = _logged(tmp_path, [-1e30, 1.0, 1e30])
    value = event.histogram_value
    assert np.all(np.isfinite(value.bucket_limit))
    assert value.bucket_limit[-1] == np.float32(1e30) == value.max
    assert sum(value.bucket) == 3


def test_histograms_and_scalars_of_a_step_share_step_and_time(tmp_path):
    """Both belong to one record, with one step and wall time."""
    events = _logged(tmp_path, SAMPLE, SAMPLE + 1)
    scalars = tensorboard_scalars(tmp_path)["mean"]
    assert [event.step for event in events] == scalars.steps == [0, 1]
    assert [event.wall_time for event in events] == scalars.wall_times


def test_a_histogram_not_sown_is_absent():
    """A record has the sown histograms only, as NumPy arrays."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        log(0, {"a": sowlog.histogram.of([1.0]), "b": sowlog.histogram.init_fn(), "c": 1.0})
    (record,) = memory.records
    assert record.tags == ("c",)
    assert set(record.histograms) == {"a"}
    assert isinstance(record.histograms["a"].counts, np.ndarray)


def test_a_tree_of_histograms_alone_is_written(tmp_path):
    """A step without a scalar still writes its histograms."""
    with sowlog.Logger(tmp_path) as log:
        log(3, {"act": sowlog.histogram.of([1.0, 2.0])})
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert [event.step for event in reader.Histograms("act")] == [3]
