from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.support.tensorboard_reading import tensorboard_images
from tests.train.running import CONFIGS, run
from tests.train.tasks.test_tasks import Trained
from train import data, tasks
from train.config import file as config_file
from train.config.experiment import Config
from train.config.tasks import VaeTask, VqvaeTask
from train.tasks import vae, vqvae

TINY = ("data.batch_size=64", "steps=300", "optimizer.learning_rate=1e-2")


def config(name: str, *overrides: str) -> Config:
    return config_file.load(CONFIGS / f"{name}.yaml", [*TINY, *overrides])


def encode(
    silent: Sequence[int] = (), **options: object
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Run an encoder, some latents of which say nothing; return its outputs and its metrics."""
    encoder = vae.Encoder(VaeTask.model_validate({"name": "vae", "hidden": [5], "latents": 3, **options}))
    x = jax.random.normal(jax.random.key(0), (7, 4)) * 3
    params = jax.jit(encoder.init)(jax.random.key(1), x)["params"]
    for latent in silent:
        params["mean"]["kernel"] = params["mean"]["kernel"].at[:, latent].set(0)
        params["mean"]["bias"] = params["mean"]["bias"].at[latent].set(4)
    (mean, log_variance, kl), updates = jax.jit(sowlog.collect(encoder.apply))({"params": params}, x)
    outputs = {"mean": mean, "log_variance": log_variance, "kl": kl}
    sown = {**sowlog.compute(updates["metrics"]), **sowlog.compute({"losses": updates["losses"]})}
    return {name: np.asarray(array, np.float64) for name, array in outputs.items()}, sown


@pytest.mark.parametrize(("free_bits", "beta"), [(0.0, 1.0), (0.7, 0.5), (100.0, 2.0)])
def test_the_kl_divergence_is_that_of_normal_distributions(free_bits: float, beta: float) -> None:
    """Against an integral over a grid; the loss has its free bits by latent, the statistic has none."""
    outputs, sown = encode(free_bits=free_bits, beta=beta)
    z = np.linspace(-30, 30, 60001)
    variance = np.exp(outputs["log_variance"])[..., None]
    q = np.exp(-((z - outputs["mean"][..., None]) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    log_prior = -(z**2) / 2 - np.log(2 * np.pi) / 2
    kl = np.trapezoid(q * (np.log(np.maximum(q, 1e-300)) - log_prior), z)
    assert [sown[f"latent_kl/{i:02}"] for i in range(3)] == pytest.approx(kl.mean(0), rel=1e-4)
    assert outputs["kl"] == pytest.approx(kl.sum(-1), rel=1e-4)
    assert sown["losses/kl"] == pytest.approx(np.maximum(free_bits, kl.mean(0)).sum(), rel=1e-4)
    assert sown["losses/kl/weighted"] == pytest.approx(beta * sown["losses/kl"])


def test_a_unit_without_information_is_not_active() -> None:
    """Its mean does not depend on the image, whatever it is."""
    outputs, sown = encode()
    assert sown["active_units"] == (outputs["mean"].var(0) > 0.01).sum() == 3
    outputs, sown = encode(silent=[0, 2])
    assert sown["active_units"] == 1
    assert (outputs["mean"][:, [0, 2]] == 4).all()


@pytest.fixture(scope="module")
def trained_vae() -> Trained:
    return Trained(config("vae", "task.latents=3", "task.hidden=[32, 16]"))


def test_a_vae_learns_digits(trained_vae: Trained) -> None:
    """Its bound falls below that of pixels drawn one by one, each with its mean; every tag is there."""
    held_out = trained_vae.evaluate()
    pixels = trained_vae.data.batch(0, 0)["image"].reshape(-1, 64)
    mean = np.clip(pixels.mean(0), 1e-3, 1 - 1e-3)
    baseline = -(pixels * np.log(mean) + (1 - pixels) * np.log(1 - mean)).sum(1).mean()
    assert held_out["eval/neg_elbo"] < baseline - 0.5
    assert held_out["eval/neg_elbo"] == pytest.approx(
        held_out["eval/loss"] + held_out["eval/losses/encoder/kl"], rel=1e-5
    )
    sown = {"active_units", "variance", *(f"latent_kl/{i:02}" for i in range(3))}
    assert {f"eval/encoder/{name}" for name in sown} <= set(held_out)
    assert trained_vae.last["objective"] == pytest.approx(trained_vae.last["neg_elbo"], rel=1e-5)


def test_a_vae_trains_on_new_draws_and_evaluates_on_the_same(trained_vae: Trained) -> None:
    """So that two evaluations differ by the model alone."""
    batch = trained_vae.data.batch(0, 0)
    forward = jax.jit(lambda key: trained_vae.task.forward(trained_vae.state.variables, batch, key).loss)
    losses = [float(forward(key)) for key in (None, None, jax.random.key(1), jax.random.key(2))]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


USAGE = vqvae.Usage(codes=5)


def test_usage_obeys_the_laws_of_reducers() -> None:
    """As every reducer of the library does."""
    sowlog.testing.assert_reducer_laws(USAGE)


def test_perplexity_is_that_of_all_choices() -> None:
    """Of two batches of one code each it is 2, where the mean over batches would be 1."""
    state = USAGE.of(jnp.array([0, 0, 0])).merge(USAGE.of(jnp.array([4, 4, 4])))
    result = state.compute()
    assert float(result["perplexity"]) == pytest.approx(2)
    assert float(result["dead"]) == 3
    choices = np.random.default_rng(0).integers(0, 4, (3, 7))
    p = np.bincount(choices.ravel(), minlength=5) / choices.size
    expected = np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())
    assert float(USAGE.of(choices).compute()["perplexity"]) == pytest.approx(expected, rel=1e-6)
    weighted = USAGE.of(jnp.array([0, 1, 2, 3]), weight=jnp.array([1, 1, 0, 0]))
    assert float(weighted.compute()["perplexity"]) == pytest.approx(2)


def test_each_vector_becomes_its_nearest_code() -> None:
    """The losses are equation 3's, by NumPy; the gradient passes straight through."""
    layer = vqvae.Quantizer(VqvaeTask(name="vqvae", codes=6, code_size=3, commitment=0.5))
    z = jax.random.normal(jax.random.key(0), (2, 2, 2, 3)) * 2
    params = jax.jit(layer.init)(jax.random.key(1), z)["params"]
    q, updates = jax.jit(sowlog.collect(layer.apply))({"params": params}, z)
    codes = np.asarray(params["codes"], np.float64)
    vectors = np.asarray(z, np.float64).reshape(-1, 3)
    distance = ((vectors[:, None] - codes[None]) ** 2).sum(-1)
    np.testing.assert_allclose(np.asarray(q).reshape(-1, 3), codes[distance.argmin(1)], rtol=1e-5)
    losses = sowlog.compute({"losses": updates["losses"]})
    assert losses["losses/commitment"] == pytest.approx(distance.min(1).mean(), rel=1e-5)
    assert losses["losses/total"] == pytest.approx(1.5 * distance.min(1).mean(), rel=1e-5)
    assert sowlog.compute(updates["metrics"])["usage/dead"] == 6 - len(set(distance.argmin(1)))
    straight = jax.jit(jax.grad(lambda z: jnp.sum(layer.apply({"params": params}, z) * 3)))(z)
    np.testing.assert_allclose(straight, 3 * np.ones(z.shape))

    def total(params: dict, z: jax.Array) -> jax.Array:
        return sowlog.total_loss(sowlog.collect(layer.apply)({"params": params}, z)[1])

    towards = 2 * (vectors - codes[distance.argmin(1)]) / len(vectors)
    grads, grad_z = jax.jit(jax.grad(total, argnums=(0, 1)))(params, z)
    np.testing.assert_allclose(np.asarray(grad_z).reshape(-1, 3), 0.5 * towards, atol=1e-6)
    np.testing.assert_allclose(np.asarray(grads["codes"]).sum(0), -towards.sum(0), atol=1e-5)


def test_a_vqvae_learns_digits() -> None:
    """It restores an image better than the mean image does, with more than a few codes."""
    trained = Trained(config("vqvae", "task.width=8", "task.codes=16"))
    held_out = trained.evaluate()
    images = trained.data.held_out()["image"][0]
    assert held_out["eval/loss"] < ((images - images.mean(0)) ** 2).sum((1, 2, 3)).mean() / 2
    assert 2 < held_out["eval/quantizer/usage/perplexity"] <= 16
    losses = {f"eval/losses/quantizer/{name}" for name in ("commitment", "codebook")}
    assert losses <= set(held_out)


def test_an_evaluation_draws_images_over_their_reconstructions(tmp_path: Path) -> None:
    """As TensorBoard shows them, at each evaluation: the first held-out images, and their reconstructions."""
    small = ("task.hidden=[4]", "task.latents=2", "data.batch_size=20", "steps=3", "eval.every=2")
    experiment = config("vae", *small)
    run(experiment, tmp_path)
    images = tensorboard_images(tmp_path)
    assert sorted(images) == [("eval/reconstructions", step) for step in (0, 2, 3)]
    held_out = data.load(experiment.data).held_out()["image"][0]
    originals = held_out[: tasks.DRAWN, ..., 0]
    restored: list[np.ndarray] = []
    for _, pixels in sorted(images.items()):
        # Tiles of 64 pixels with gaps of 2, of which one pixel of each square is read.
        rows = [pixels[top : top + 64 : 8] for top in (0, 66)]
        tiles = [[row[:, left : left + 64 : 8] for left in range(0, tasks.DRAWN * 66, 66)] for row in rows]
        np.testing.assert_array_equal(tiles[0], np.round(255 * originals))
        restored.append(np.array(tiles[1]))
    assert len(np.unique(restored[0])) > 100
    assert (restored[0] != restored[2]).any()


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 8, 8, 2)])
def test_what_is_no_image_to_look_at_is_not_drawn(shape: tuple[int, ...]) -> None:
    """A user's data may have other axes; it trains all the same."""
    task = vae.Vae(VaeTask.model_validate({"name": "vae", "hidden": [4]}))
    batch = {"image": jnp.zeros(shape)}
    assert task.draw(task.init(jax.random.key(0), batch), batch) == {}


VAE = VaeTask.model_validate({"name": "vae", "hidden": [4]})
VQVAE = VqvaeTask.model_validate({"name": "vqvae", "width": 4, "codes": 4})


@pytest.mark.parametrize("task", [vae.Vae(VAE), vqvae.Vqvae(VQVAE)])
def test_reconstructions_have_the_images_channels(task: vae.Vae | vqvae.Vqvae) -> None:
    """Of colour, and fewer than are drawn: in a row each."""
    batch = {"image": jnp.full((3, 4, 6, 3), 0.25)}
    drawn = task.draw(task.init(jax.random.key(0), batch), batch)["reconstructions"]
    assert drawn.shape == (2, 3, 4, 6, 3)
    assert (drawn[0] == 0.25).all()
    assert jnp.isfinite(drawn[1]).all()
    assert (drawn[1] != drawn[0]).any()
