import functools

import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.log.drawing import drawn
from tests.support.tensorboard_reading import data_server, local_provider, shown_pr_curves
from tests.support.waiting import wait_until_equal

LABELS = np.array([False, True, False, True, True])
SCORES = np.array([0.1, 0.25, 0.5, 0.75, 1.0], np.float32)
ROWS = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")


def by_definition(labels, scores, weights, thresholds):
    """Return the curve of the definition, threshold by threshold, in float64."""
    columns = []
    for threshold in np.linspace(0, 1, thresholds):
        chosen = scores.astype(np.float64) >= threshold
        tp, fp, tn, fn = (
            weights[place].sum()
            for place in (chosen & labels, chosen & ~labels, ~chosen & ~labels, ~chosen & labels)
        )
        columns.append((tp, fp, tn, fn, tp / max(1e-7, tp + fp), tp / max(1e-7, tp + fn)))
    return np.array(columns).T


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.int32), 2 * LABELS.astype(np.int32) - 1])
def test_tensorboard_shows_the_curve(tmp_path, place, labels):
    """The tab's own route sends the counts, precision and recall at each threshold."""
    with sowlog.Logger(tmp_path) as log:
        log.pr_curve(3, "eval/pr", place(labels), place(SCORES), thresholds=5)
    ((tag, (entry,)),) = shown_pr_curves(local_provider(tmp_path), ".").items()
    assert (tag, entry["step"]) == ("eval/pr", 3)
    assert entry["thresholds"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert entry["true_positives"] == [3, 3, 2, 2, 1]
    assert entry["false_positives"] == [2, 1, 1, 0, 0]
    assert entry["true_negatives"] == [0, 1, 1, 2, 2]
    assert entry["false_negatives"] == [0, 0, 1, 1, 2]
    assert entry["precision"] == pytest.approx([3 / 5, 3 / 4, 2 / 3, 1, 1])
    assert entry["recall"] == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3])


def test_the_data_server_shows_the_same_curves(tmp_path):
    """The Rust server agrees with the Python reader, for a resumed run as well."""
    for resume_from in (None, 1):
        with sowlog.Logger(tmp_path / "run", resume_from=resume_from) as log:
            for step in range(resume_from or 0, 3):
                log.pr_curve(step, "pr", LABELS, np.full(5, 0.5 + 0.1 * step - 0.2 * bool(resume_from)))
    expected = shown_pr_curves(local_provider(tmp_path), "run")
    assert [entry["step"] for entry in expected["pr"]] == [0, 1, 2]
    with data_server(tmp_path) as server:
        wait_until_equal(lambda: shown_pr_curves(server, "run"), expected)


@pytest.mark.parametrize("thresholds", [2, 127, 1024])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_the_curve_is_that_of_the_definition(thresholds, weighted, dtype):
    """Of arrays of any shape, with and without weights."""
    random = np.random.default_rng(thresholds)
    labels, scores = random.random((7, 30)) < 0.3, random.random((7, 30)).astype(dtype)
    weights = 3 * random.random((7, 30)) if weighted else np.ones((7, 30))
    options = {"weights": weights} if weighted else {}
    curve = drawn("pr_curve", labels, scores, thresholds=thresholds, **options)
    assert (curve.dtype, curve.shape) == (np.float32, (6, thresholds))
    np.testing.assert_allclose(
        curve, by_definition(labels, scores, weights, thresholds), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_counts_of_batches_are_the_curve_of_all(tmp_path, weighted):
    """On the device, merged as states and summed on the host; the tab reads it."""
    random = np.random.default_rng(0)
    labels, scores = random.random((3, 40)) < 0.3, random.random((3, 40), np.float32)
    weights = (2 * random.random((3, 40), np.float32),) if weighted else ()
    counts = [sowlog.pr_counts(*batch) for batch in zip(labels, scores, *weights, strict=True)]
    merged = functools.reduce(sowlog.merge, map(sowlog.sum(axis=()).of, counts))
    with sowlog.Logger(tmp_path) as log:
        log.pr_curve(0, "all", labels, scores, weights=weights[0] if weighted else None)
        log.pr_counts(0, "merged", merged.compute())
        log.pr_counts(0, "summed", np.sum(counts, axis=0))
    shown = shown_pr_curves(local_provider(tmp_path), ".")
    for tag in ("merged", "summed"):
        ((expected,), (entry,)) = shown["all"], shown[tag]
        assert entry["thresholds"] == expected["thresholds"]
        for row in ROWS:
            # The tab has counts without their fractions.
            fraction = weighted and row.endswith(("positives", "negatives"))
            np.testing.assert_allclose(entry[row], expected[row], rtol=1e-5, atol=fraction)


def test_odd_counts_are_no_examples():
    """Negative and not finite ones; small ones are scaled, as weights are."""
    odd = drawn("pr_counts", np.array([[np.nan, 1.0, 3.0], [np.inf, -2.0, 1.0]]))
    small = drawn("pr_counts", np.array([[0.0, 0.1, 0.3], [0.0, 0.0, 0.1]]))
    for curve in (odd, small):
        np.testing.assert_allclose(curve[5], [1, 1, 0.75])
        np.testing.assert_allclose(curve[4], [0.8, 0.8, 0.75])
    np.testing.assert_allclose(small[0], [4 / 3, 4 / 3, 1])


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (np.zeros((3, 5)), ValueError, r"shape \[3, 5\]: they must be \[2, thresholds\]"),
        (np.zeros(2), ValueError, r"shape \[2\]"),
        (np.zeros((2, 1)), ValueError, r"shape \[2, 1\].* of 2 to 1024 thresholds"),
        (np.zeros((2, 1025)), ValueError, r"shape \[2, 1025\]"),
        (np.zeros((2, 3), complex), TypeError, "dtype complex128: give real numbers"),
        ([[0, 1], [1, 0]], TypeError, "has type list"),
    ],
)
def test_invalid_counts_are_refused(counts, error, message):
    """On the training thread, at the call."""
    with sowlog.Logger("unused", writers=[]) as log, pytest.raises(error, match=f"PR curve pr .*{message}"):
        log.pr_counts(0, "pr", counts)


def test_odd_scores_and_weights_are_converted():
    """Scores are clipped and NaN is 0; a weight that is negative or not finite is 0."""
    odd = drawn("pr_curve", LABELS, np.array([np.nan, np.inf, -np.inf, 2.0, -1.0]))
    np.testing.assert_array_equal(odd, drawn("pr_curve", LABELS, np.array([0.0, 1.0, 0.0, 1.0, 0.0])))
    weights = jnp.array([0, 1, 0, 0, 3])
    odd = drawn("pr_curve", LABELS, SCORES, weights=np.array([np.nan, 1, -2, np.inf, 3]))
    np.testing.assert_array_equal(odd, drawn("pr_curve", LABELS, SCORES, weights=weights))


def test_small_weights_are_scaled():
    """The tab ends a curve where less than one example is left; a mask and whole numbers stay."""
    weights = np.array([1, 0, 1, 0.5, 1])
    expected = by_definition(LABELS, SCORES, weights, 127)
    for scale in (1, 1e-3, 5e-324):
        small = np.array([1, 0, 1, 1, 1]) if scale < 1e-300 else weights
        curve = drawn("pr_curve", LABELS, SCORES, weights=scale * small)
        np.testing.assert_allclose(curve, by_definition(LABELS, SCORES, small, 127), rtol=1e-6)
    twice = drawn("pr_curve", LABELS, SCORES, weights=2 * weights)
    np.testing.assert_allclose(twice, np.concatenate([2 * expected[:4], expected[4:]]), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": np.full(5, 1e308)},
        {"weights": np.full(5, 1e-300)},
        {"weights": np.zeros(5)},
        {"thresholds": 2},
    ],
)
@pytest.mark.parametrize("labels", [LABELS, np.zeros(5, bool), np.ones(5, bool)])
def test_a_curve_is_always_finite(tmp_path, labels, options):
    """Without positives, negatives or weight, and with weights beyond float32: the tab can read it."""
    with sowlog.Logger(tmp_path) as log:
        log.pr_curve(0, "pr", labels, SCORES, **options)
    ((entry,),) = shown_pr_curves(local_provider(tmp_path), ".").values()
    assert np.isfinite([entry[row] for row in ROWS]).all()


@pytest.mark.parametrize(
    ("labels", "scores", "options", "error", "message"),
    [
        (LABELS, SCORES[:4], {}, ValueError, r"scores .* shape \[4\], and its labels \[5\]"),
        (
            LABELS,
            SCORES,
            {"weights": SCORES[:1]},
            ValueError,
            r"weights .* shape \[1\], and its labels \[5\]",
        ),
        (LABELS[:0], SCORES[:0], {}, ValueError, r"labels of shape \[0\], which are none"),
        (
            SCORES,
            SCORES,
            {},
            TypeError,
            r"labels .* dtype float32: give bools or integers, as of labels > 0.5",
        ),
        (LABELS, LABELS, {}, TypeError, r"scores .* dtype bool.*jax.nn.sigmoid"),
        (LABELS, LABELS * 1j, {}, TypeError, "scores .* dtype complex128"),
        (LABELS, SCORES, {"weights": SCORES * 1j}, TypeError, "weights .* dtype complex"),
        ([True], SCORES, {}, TypeError, "labels .* has type list"),
        (LABELS, [0.5], {}, TypeError, "scores .* has type list"),
        (LABELS, SCORES, {"weights": 2.0}, TypeError, "weights .* has type float"),
        (LABELS, SCORES, {"thresholds": 1}, ValueError, "thresholds .* are 1: they must be 2 to 1024"),
        (LABELS, SCORES, {"thresholds": 1025}, ValueError, "are 1025"),
        (LABELS, SCORES, {"thresholds": 9.0}, TypeError, "are 9.0, a float: give their number"),
    ],
)
def test_an_invalid_curve_is_refused(labels, scores, options, error, message):
    """On the training thread, at the call."""
    with sowlog.Logger("unused", writers=[]) as log, pytest.raises(error, match=message):
        log.pr_curve(0, "pr", labels, scores, **options)


def test_scalars_are_read_beside_curves(tmp_path):
    """`sowlog.read` returns both, and a step that goes back is a warning."""
    with sowlog.Logger(tmp_path) as log:
        log(0, {"loss": 0.5})
        log.pr_curve(5, "pr", LABELS, SCORES)
    run = sowlog.read(tmp_path)
    assert (sorted(run.scalars), dict(run.left_out), run.damage) == (["loss"], {}, ())
    ((step, curve),) = run.pr_curves["pr"]
    assert (step, curve.shape, curve.dtype) == (5, (6, 127), np.float32)
    with sowlog.Logger(tmp_path) as log:
        log.pr_curve(4, "pr", LABELS, SCORES)
        with pytest.warns(sowlog.LossWarning, match="step 4 of pr is logged to"):
            log.flush()
