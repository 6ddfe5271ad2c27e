"""The denoising loss against what it must be for networks whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import diffusion, models, objectives
from fmzoo.diffusion import Process
from fmzoo.objectives import divide
from fmzoo.objectives.denoising import draw_noise
from fmzoo.objectives.variational import discretised_log_likelihood, posteriors, variational_bound

KEY = jax.random.key(0)
PROCESS = Process(num_train_timesteps=50, beta_end=0.1)


def batch_of(rows=6, first=0, **fields):
    image = jax.random.uniform(jax.random.key(1), (64, 4, 4, 3), minval=-1, maxval=1)[first : first + rows]
    ids = jnp.arange(first, first + rows, dtype=jnp.int32)
    return {"image": image, "weights": jnp.ones(rows), "example_id": ids, **fields}


def silent(parts, sample, timesteps, conditions, keys):
    return jnp.zeros_like(sample)


class Recorder:
    """A network that says nothing and remembers what it was told."""

    def __call__(self, parts, sample, timesteps, conditions, keys):
        self.sample, self.timesteps, self.conditions = sample, timesteps, conditions
        return jnp.zeros_like(sample)


@pytest.mark.parametrize(
    "process",
    [
        Process(prediction="epsilon"),
        Process(prediction="v_prediction", zero_terminal_snr=True),
        Process(prediction="sample", schedule="cosine"),
        Process(prediction="velocity", schedule="flow", shift=3.0),
        Process(prediction="edm", schedule="edm"),
    ],
    ids=lambda process: process.prediction,
)
def test_a_network_that_knows_the_picture_has_no_loss(process):
    batch = batch_of()

    def knowing(parts, sample, timesteps, conditions, keys):
        alpha, sigma = (level[:, None, None, None] for level in diffusion.marginal(process, timesteps))
        x_t = sample * jnp.sqrt(sigma**2 + process.sigma_data**2) if process.schedule == "edm" else sample
        return diffusion.convert(
            batch["image"], "sample", process.prediction, x_t, *diffusion.marginal(process, timesteps)
        )

    density = "edm" if process.schedule == "edm" else "uniform"
    loss = divide(objectives.denoising(knowing, process, density=density)({}, {}, batch, KEY)[0]["loss"])
    ignorant = divide(objectives.denoising(silent, process, density=density)({}, {}, batch, KEY)[0]["loss"])
    assert loss < 1e-5 < 0.1 < ignorant


def test_an_example_has_its_noise_wherever_it_stands():
    seen = []
    for rows, first in ((6, 0), (3, 2)):
        recorder = Recorder()
        objectives.denoising(recorder, PROCESS, offset_noise=0.5)({}, {}, batch_of(rows, first), KEY)
        seen.append(recorder)
    np.testing.assert_array_equal(seen[0].sample[2:5], seen[1].sample)
    np.testing.assert_array_equal(seen[0].timesteps[2:5], seen[1].timesteps)
    assert len(np.unique(seen[0].timesteps)) > 3


def test_conditions_are_dropped_together_and_by_example():
    rows, recorder = 64, Recorder()
    fields = {"context": jnp.ones((rows, 5, 2)), "label": jnp.full(rows, 7, jnp.int32)}
    empty = {"context": np.full((5, 2), -3.0), "label": 10}
    objectives.denoising(recorder, PROCESS, empty=empty, dropout=0.25)({}, {}, batch_of(rows, **fields), KEY)
    dropped = np.asarray(recorder.conditions["label"] == 10)
    assert 6 <= dropped.sum() <= 26  # 16 expected; both bounds are 2.9 standard deviations away
    np.testing.assert_array_equal(recorder.conditions["context"][dropped], -3.0)
    np.testing.assert_array_equal(recorder.conditions["context"][~dropped], 1.0)
    np.testing.assert_array_equal(recorder.conditions["label"][~dropped], 7)


def test_a_dropped_caption_goes_through_the_encoder_as_the_empty_one():
    recorder = Recorder()

    def condition(parts, batch):
        return {"context": parts["text"][batch["caption"]]}

    batch = batch_of(caption=jnp.ones((6, 3), jnp.int32))
    objective = objectives.denoising(recorder, PROCESS, condition=condition, empty={"caption": [0, 2, 2]}, dropout=1.0)
    objective({}, {"text": jnp.arange(4.0)[:, None]}, batch, KEY)
    np.testing.assert_array_equal(recorder.conditions["context"][..., 0], [[0.0, 2.0, 2.0]] * 6)


def test_latents_cached_are_latents_encoded():
    def encode(parts, batch, keys):
        return batch["image"][:, ::2, ::2, :1] * parts["autoencoder"]

    batch, frozen = batch_of(), {"autoencoder": jnp.float32(0.5)}
    cached = {**batch, "latents": encode(frozen, batch, None)}
    del cached["image"]
    fly = objectives.denoising(silent, PROCESS, to_latents=encode)({}, frozen, batch_of(), KEY)
    kept = objectives.denoising(silent, PROCESS)({}, {}, cached, KEY)
    assert float(fly[0]["loss"].total) == float(kept[0]["loss"].total)


def test_each_latent_is_drawn_by_its_own_key():
    def encode(parts, batch, keys):
        return draw_noise(keys, batch["image"])

    recorder = Recorder()
    objective = objectives.denoising(recorder, Process(beta_start=1e-9, beta_end=1e-9), to_latents=encode)
    objective({}, {}, batch_of(6, 0), KEY)
    whole = recorder.sample
    objective({}, {}, batch_of(2, 3), KEY)
    np.testing.assert_array_equal(whole[3:5], recorder.sample)


def test_the_class_at_large_has_its_own_denominator():
    weights, prior = jnp.array([1.0, 1, 0, 0, 0, 0]), jnp.array([0.0, 0, 1, 1, 1, 0.5])
    batch = batch_of(weights=weights, prior_weights=prior)
    terms, metrics = objectives.denoising(silent, PROCESS)({}, {}, batch, KEY)
    errors = np.array([
        float(objectives.denoising(silent, PROCESS)({}, {}, batch_of(1, i), KEY)[0]["loss"].total) for i in range(6)
    ])  # fmt: skip
    assert divide(terms["loss"]) == pytest.approx(np.mean(errors[:2]), rel=1e-5)
    assert divide(terms["prior"]) == pytest.approx(float(np.sum(errors * prior)) / 3.5, rel=1e-5)
    assert divide(metrics["mse"]) == pytest.approx(np.mean(errors[:2]), rel=1e-5)


def test_the_weighting_multiplies_each_error():
    recorder, batch = Recorder(), batch_of()
    terms, metrics = objectives.denoising(recorder, PROCESS, weighting="min_snr")({}, {}, batch, KEY)
    weights = diffusion.loss_weight(PROCESS, recorder.timesteps, "min_snr")
    errors = np.array([
        float(objectives.denoising(silent, PROCESS)({}, {}, batch_of(1, i), KEY)[0]["loss"].total) for i in range(6)
    ])  # fmt: skip
    assert float(terms["loss"].total) == pytest.approx(float(np.sum(errors * weights)), rel=1e-5)
    assert float(metrics["mse"].total) == pytest.approx(np.sum(errors), rel=1e-5)


def test_offset_noise_moves_a_channel_as_one():
    noise = draw_noise(jax.random.split(KEY, 4000), jnp.zeros((4000, 2, 2, 2)), 0.5)
    flat = np.asarray(noise.reshape(4000, 4, 2))
    assert np.var(flat) == pytest.approx(1.25, abs=0.03)
    assert np.mean(flat[:, 0, 0] * flat[:, 3, 0]) == pytest.approx(0.25, abs=0.06)
    assert np.mean(flat[:, 0, 0] * flat[:, 0, 1]) == pytest.approx(0, abs=0.06)


def test_low_rank_adapters_alone_are_trained():
    def denoise(parts, sample, timesteps, conditions, keys):
        return models.project(sample, parts["denoiser"]["dense"]["kernel"])

    base = {"denoiser": {"dense": {"kernel": jnp.eye(3)}}}
    adapters = models.init_lora(KEY, base, 1, "dense")
    objective = objectives.adapted(objectives.denoising(denoise, PROCESS))
    gradient = jax.grad(lambda a: objective(a, {"base": base}, batch_of(), KEY)[0]["loss"].total)(adapters)
    assert jax.tree.structure(gradient) == jax.tree.structure(adapters)
    assert float(jnp.abs(gradient["denoiser"]["dense"]["kernel"]["b"]).max()) > 0


LEARNED = Process(num_train_timesteps=50, beta_end=0.1, learned_variance=True)


@pytest.fixture(scope="module")
def noised():
    x0, noise = jax.random.normal(KEY, (2, 50, 2, 2, 3)).clip(-1, 1)
    t = jnp.arange(50.0)
    return x0, noise, t, diffusion.add_noise(LEARNED, x0, noise, t)


def test_the_bound_is_zero_where_the_step_is_the_posterior(noised):
    x0, noise, t, x_t = noised
    exact = variational_bound(LEARNED, noise, jnp.zeros_like(x0), x0, x_t, t)
    np.testing.assert_allclose(exact[1:], 0, atol=1e-5)
    assert np.all(variational_bound(LEARNED, noise + 0.1, jnp.zeros_like(x0), x0, x_t, t)[1:] > 1e-5)


def test_the_bound_is_the_divergence_of_two_normals(noised):
    x0, noise, t, x_t = noised
    found = variational_bound(LEARNED, noise + 0.3, jnp.full_like(x0, 0.7), x0, x_t, t)
    alpha_bar = diffusion.process.levels(LEARNED) ** 2
    k = 20
    before, beta = alpha_bar[k - 1], 1 - alpha_bar[k] / alpha_bar[k - 1]
    mean = (np.asarray(x_t[k]) - beta / np.sqrt(1 - alpha_bar[k]) * np.asarray(noise[k])) / np.sqrt(1 - beta)
    guess = mean - beta / np.sqrt(1 - alpha_bar[k]) * 0.3 / np.sqrt(1 - beta)  # arXiv 2006.11239, eq. 11
    small = beta * (1 - before) / (1 - alpha_bar[k])
    variance = beta**0.7 * small**0.3
    nats = 0.5 * (np.log(variance / small) - 1 + small / variance + (mean - guess) ** 2 / variance)
    assert float(found[k]) == pytest.approx(np.mean(nats) / np.log(2), rel=1e-3)


def test_the_posterior_is_a_normal_law():
    table = posteriors(LEARNED)
    assert all(value.shape == (50,) and np.all(np.isfinite(value)) for value in table.values())
    assert table["of_x0"][0] == pytest.approx(1)
    assert table["of_x_t"][0] == pytest.approx(0)
    assert np.all(table["log_beta"][1:] > table["log_beta_tilde"][1:])


def test_the_probabilities_of_all_levels_sum_to_one():
    levels = jnp.linspace(-1, 1, 256)
    for mean, log_variance in ((0.3, -4.0), (-1.2, 0.0), (0.98, -6.0)):
        total = jnp.sum(jnp.exp(discretised_log_likelihood(levels, jnp.float32(mean), jnp.float32(log_variance))))
        assert float(total) == pytest.approx(1, abs=1e-4)


def test_the_bound_teaches_the_variance_alone():
    def denoise(parts, sample, timesteps, conditions, keys):
        return jnp.concatenate([parts["mean"] * sample, parts["share"] * jnp.ones_like(sample)], axis=-1)

    objective, batch = objectives.denoising(denoise, LEARNED), batch_of()
    params = {"mean": jnp.float32(0.5), "share": jnp.float32(0.1)}
    gradients = {
        name: jax.grad(lambda p, name=name: objective(p, {}, batch, KEY)[0][name].total)(params)
        for name in ("loss", "variational")
    }
    assert gradients["variational"]["mean"] == gradients["loss"]["share"] == 0
    assert gradients["variational"]["share"] != 0 != gradients["loss"]["mean"]


def test_latents_have_no_levels_to_score():
    process = Process(num_train_timesteps=2, beta_end=0.1, learned_variance=True)

    def denoise(parts, sample, timesteps, conditions, keys):
        return jnp.concatenate([sample, sample], axis=-1)

    objective, batch = objectives.denoising(denoise, process), batch_of()
    pixels, latents = (
        objective({}, {}, fields, KEY)[0]["variational"].total
        for fields in (batch, {**batch, "latents": batch["image"]})
    )
    assert float(pixels) != float(latents)
