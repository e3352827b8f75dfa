"""Metrics of metrax and clu as reducers, against the same classes by themselves."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import metrax
import numpy as np
import pytest
from clu import metrics as clu_metrics

import sowlog
from sowlog.adapters import from_metric
from sowlog.testing import MemoryWriter, assert_invariant, assert_reducer_laws

pytestmark = pytest.mark.usefixtures("light_compilation")

GENERATOR = np.random.default_rng(0)
OUTPUTS = {
    "predictions": GENERATOR.uniform(size=12).astype(np.float32),
    "labels": GENERATOR.integers(0, 2, 12).astype(np.float32),
}
AUC = from_metric(metrax.AUCROC, example=OUTPUTS)
TOKENS = {
    "predictions": np.asarray(jax.nn.softmax(GENERATOR.normal(size=(4, 3, 5)).astype(np.float32))),
    "labels": GENERATOR.integers(0, 5, (4, 3)),
}
METRICS = {
    "auc": (metrax.AUCROC, AUC, OUTPUTS),
    "auc-pr": (metrax.AUCPR, from_metric(metrax.AUCPR, example=OUTPUTS), OUTPUTS),
    "precision": (metrax.Precision, from_metric(metrax.Precision), OUTPUTS),
    "recall": (metrax.Recall, from_metric(metrax.Recall), OUTPUTS),
    "accuracy": (metrax.Accuracy, from_metric(metrax.Accuracy, example=OUTPUTS), OUTPUTS),
    "mse": (metrax.MSE, from_metric(metrax.MSE, example=OUTPUTS), OUTPUTS),
    "perplexity": (metrax.Perplexity, from_metric(metrax.Perplexity, example=TOKENS), TOKENS),
}


def computed(metric, outputs):
    """Return the result of the library by itself, under JAX's default rules."""
    with jax.numpy_rank_promotion("allow"):
        return np.asarray(metric.from_model_output(**jax.tree.map(jnp.asarray, outputs)).compute())


@pytest.mark.parametrize("metric", [metrax.Average, clu_metrics.Average])
def test_a_metric_of_one_array_keeps_the_laws(metric):
    """Its state is neutral, associative and of one structure, under jit and scan."""
    assert_reducer_laws(from_metric(metric), rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_several_arrays_is_the_library_s(name):
    """The result is the library's, however the batch is cut: merged, in a scan, over replicas, packed."""
    metric, reducer, outputs = METRICS[name]
    wanted = computed(metric, outputs)
    packed = jax.jit(lambda batch: sowlog.pack({"x": reducer.of_output(**batch)}))(outputs)
    np.testing.assert_allclose(sowlog.compute(packed)["x"], wanted, rtol=1e-6)
    assert_invariant(lambda batch: {"x": reducer.of_output(**batch)}, outputs, rtol=1e-5)


def test_merges_of_a_metric_keep_the_laws():
    """The empty state is neutral bit for bit, and merges are associative and commutative."""
    parts = [AUC.of_output(**{k: v[i : i + 4] for k, v in OUTPUTS.items()}) for i in (0, 4, 8)]
    a, b, c = parts
    for state in parts:
        for merged in (sowlog.empty_like(state).merge(state), state.merge(sowlog.empty_like(state))):
            jax.tree.map(np.testing.assert_array_equal, merged, state)
    jax.tree.map(np.testing.assert_array_equal, a.merge(b).merge(c), a.merge(b.merge(c)))
    jax.tree.map(np.testing.assert_array_equal, a.merge(b), b.merge(a))


def test_an_empty_metric_is_absent():
    """A batch without examples writes no point, and no number of an empty metric."""
    nothing = {k: v[:0] for k, v in OUTPUTS.items()}
    assert sowlog.compute({"auc": AUC.of_output(**nothing)}) == {}


def test_a_state_of_a_metric_is_sown_and_logged():
    """A sow takes the state as its value, under scan, vmap and a cadence; a logger writes its number."""

    def model(batch):
        sowlog.sow("auc", AUC.of_output(**batch), AUC)
        sowlog.sow("rare", AUC.of_output(**batch), AUC, every=2)
        return batch["labels"]

    cut = jax.tree.map(lambda leaf: leaf.reshape(3, 4), OUTPUTS)
    memory = MemoryWriter()
    wanted = computed(metrax.AUCROC, OUTPUTS)
    with sowlog.Logger("unused", writers=[memory]) as log:
        for step, way in enumerate((jax.vmap, lambda body: functools.partial(jax.lax.map, body))):
            updates = jax.jit(lambda step, way=way: sowlog.collect(way(model), step=step)(cut)[1])(step)
            log(step, sowlog.pack(updates["metrics"]))
    assert [record.tags for record in memory.records] == [("auc", "rare"), ("auc",)]
    np.testing.assert_allclose([record.values[0] for record in memory.records], [wanted, wanted], rtol=1e-6)


def test_settings_belong_to_the_reducer():
    """Settings are passed to each call, shown in the repr, and make another reducer."""
    strict = from_metric(metrax.Precision, example=OUTPUTS, threshold=0.9)
    assert repr(strict) == "precision(threshold=0.9)"
    assert strict != from_metric(metrax.Precision, example=OUTPUTS)
    assert strict == from_metric(metrax.Precision, example=OUTPUTS, threshold=0.9)
    wanted = metrax.Precision.from_model_output(**OUTPUTS, threshold=0.9).compute()
    assert sowlog.compute({"x": strict.of_output(**OUTPUTS)})["x"] == wanted
    with pytest.raises(ValueError, match=r"from_metric\(Precision, threshold=\.\.\.\) needs an example"):
        from_metric(metrax.Precision, threshold=0.9)


def test_a_collection_of_clu_is_one_reducer():
    """Each metric of a Collection becomes a tag."""

    @flax.struct.dataclass
    class Collection(clu_metrics.Collection):
        loss: clu_metrics.Average.from_output("loss")
        accuracy: clu_metrics.Accuracy

    outputs = {"loss": jnp.array([1.0, 3.0]), "logits": jnp.eye(2), "labels": jnp.array([0, 0])}
    state = from_metric(Collection).of_output(**outputs)
    assert sowlog.compute({"eval": state.merge(state)}) == {"eval/accuracy": 0.5, "eval/loss": 2.0}


@flax.struct.dataclass
class Counted:
    """A metric whose count is a number of Python, as clu's documentation writes it."""

    total: jax.Array
    count: int

    @classmethod
    def empty(cls):
        return cls(jnp.zeros(()), 0)

    @classmethod
    def from_model_output(cls, values, mask=None):
        values = values if mask is None else values * mask
        return cls(jnp.sum(values), values.size)

    def merge(self, other):
        return type(self)(self.total + other.total, self.count + other.count)

    def compute(self):
        return self.total / self.count


def test_a_count_of_python_is_accumulated():
    """A number that a merge adds is no setting."""
    assert_reducer_laws(from_metric(Counted))


def test_a_weighted_sow_names_the_argument_of_the_metric():
    """Neither a value nor a state takes a weight of sowlog's."""
    reducer = from_metric(Counted)
    with pytest.raises(ValueError, match=r"counted takes no weight beside its value: pass it as an argument"):
        reducer.of([1.0, 2.0], weight=[1.0, 0.0])
    with pytest.raises(ValueError, match="a state of counted has a weight beside it"):
        reducer.of(reducer.of(1.0), weight=2.0)
    with pytest.raises(TypeError, match="a state of mean was passed as a value of counted"):
        reducer.of(sowlog.mean.of(1.0))


def test_other_shapes_than_the_empty_metric_s_ask_for_an_example():
    """Thresholds are unknown to the library's empty(), and a weight of 0.5 is no count."""
    accuracy = from_metric(metrax.Accuracy, example=OUTPUTS)
    with pytest.raises(ValueError, match=r"accuracy makes arrays float32\[\], float32\[\] of these outputs"):
        accuracy.of_output(**OUTPUTS, sample_weights=jnp.full(12, 0.5))
    with pytest.raises(TypeError, match=r"aucroc does not compute on the device.*Pass an example"):
        from_metric(metrax.AUCROC)


def test_metrics_of_the_host_are_refused():
    """BLEU computes by Python's math: a step cannot."""
    texts = {"predictions": ["a cat"], "references": [["a cat"]]}
    with pytest.raises(
        TypeError, match=r"bleu does not compute on the device.*override compute by jax.numpy"
    ):
        from_metric(metrax.BLEU, example=texts)


def test_metrics_that_do_not_merge_are_refused():
    """metrax.FBetaScore inherits a merge that raises: the message has the lines to write."""
    for example in (None, OUTPUTS):
        with pytest.raises(TypeError, match=r"FBetaScore lacks a method .*merge.*def merge\(self, other\)"):
            from_metric(metrax.FBetaScore, example=example)


@flax.struct.dataclass
class F1(metrax.FBetaScore):
    """The F1 score of several batches."""

    def merge(self, other):
        return self.replace(
            true_positives=self.true_positives + other.true_positives,
            false_positives=self.false_positives + other.false_positives,
            false_negatives=self.false_negatives + other.false_negatives,
        )


@flax.struct.dataclass
class Bleu(metrax.BLEU):
    """The BLEU score, computed in a step."""

    def compute(self):
        precisions = self.matches_by_order / self.possible_matches_by_order
        ratio = self.translation_length / self.reference_length
        brevity = jnp.minimum(1.0, jnp.exp(1 - 1 / ratio))
        return brevity * jnp.exp(jnp.mean(jnp.log(precisions)))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_subclass_with_a_merge_is_a_reducer(beta):
    """F1 and F2 of batches, merged, in a scan and packed, are those of all examples."""
    reducer = from_metric(F1, example=OUTPUTS, beta=beta)
    wanted = metrax.FBetaScore.from_model_output(**OUTPUTS, beta=beta).compute().item()
    assert sowlog.compute({"f": reducer.of_output(**OUTPUTS)})["f"] == pytest.approx(wanted, rel=1e-6)
    assert_invariant(lambda batch: {"f": reducer.of_output(**batch)}, OUTPUTS, rtol=1e-5)


def test_a_subclass_that_computes_by_jax_numpy_is_a_reducer():
    """BLEU of texts: counted on the host, merged and computed in a jitted function."""
    text = "the cat sat on the mat"
    batches = (
        ([text], [[text + " today", text]]),
        (["a dog ran in the park"], [["a dog ran in the big park"]]),
    )
    bleu = from_metric(Bleu, example={"predictions": [text], "references": [[text]]})
    one, other = (bleu.of_output(*batch) for batch in batches)
    wanted = functools.reduce(metrax.BLEU.merge, (metrax.BLEU.from_model_output(*batch) for batch in batches))
    packed = jax.jit(lambda one, other: sowlog.pack({"bleu": one.merge(other)}))(one, other)
    assert sowlog.compute(packed)["bleu"] == pytest.approx(float(wanted.compute()), rel=1e-6)


def test_text_is_counted_on_the_host_and_computed_on_the_device():
    """The word error rate takes lists of texts."""
    error_rate = from_metric(metrax.WER, example={"predictions": ["a"], "references": ["a"]})
    batches = (["a b", "c"], ["a c", "c"]), (["x"], ["y"])
    one, other = (error_rate.of_output(*batch) for batch in batches)
    one_alone, other_alone = (metrax.WER.from_model_output(*batch) for batch in batches)
    wanted = one_alone.merge(other_alone).compute()
    assert sowlog.compute({"wer": one.merge(other)})["wer"] == wanted


def test_results_must_be_scalars():
    """metrax.RougeL computes three numbers in one array, which have no names."""
    with pytest.raises(TypeError, match=r"rougel computes an array of shape \(3,\).*a dict of scalars"):
        from_metric(metrax.RougeL)


@pytest.mark.parametrize("value", [metrax.AUCROC.empty, sowlog.mean, object])
def test_other_objects_are_refused(value):
    """The message names the methods that are missing."""
    with pytest.raises(TypeError, match=r"is no metric class: it has no .*from_model_output"):
        from_metric(value)
