"""An autoencoder's run, and denoisers of its latents: encoded at each step, or once."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import data, generate, train
from fmzoo.errors import InputError
from fmzoo.interop.image_runs import ImageModelConfig
from fmzoo.models.autoencoder import AutoencoderConfig, to_latents
from fmzoo.models.dit import DiTConfig
from fmzoo.stages import autoencoders, images, pretrain_autoencoder, pretrain_images
from fmzoo.stages.frozen_autoencoder import in_latents, read_autoencoder
from tests.stages import small_image_runs

pytestmark = pytest.mark.usefixtures("one_device")
STEPS = 3
DIT = DiTConfig(
    sample_size=8, patch_size=2, in_channels=1, out_channels=1, num_classes=10, num_layers=1, num_heads=2, head_dim=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    """The folder of a finished autoencoder's run."""
    folder = tmp_path_factory.mktemp("latents") / "coder"
    assert pretrain_autoencoder(dataclasses.replace(small_image_runs.AUTOENCODER, steps=4), folder)
    return folder


@pytest.fixture(scope="module")
def config(coder):
    return dataclasses.replace(small_image_runs.IMAGES, autoencoder=str(coder), steps=STEPS, checkpoint_every=STEPS)


def test_an_autoencoders_run_holds_what_is_promised(coder):
    names = {"config.json", "metrics.jsonl", "checkpoints", "latents.json", "report.md", "reconstructions.png"}
    assert names <= {path.name for path in coder.iterdir()}
    rows = train.read_rows(coder / "metrics.jsonl")
    assert {"autoencoder/reconstruction", "autoencoder/kl", "autoencoder/adversarial", "discriminator/hinge"} <= set(
        rows[0]
    )
    assert "squared error over 64 pictures, not trained on" in (coder / "report.md").read_text()


def test_a_run_gives_its_autoencoder_with_the_measure_of_its_latents(coder):
    last, average = fmzoo.load(coder), fmzoo.load(coder, average=True)
    assert isinstance(average.config, AutoencoderConfig)
    assert not np.array_equal(*(one.params["decoder"]["out"]["conv"]["kernel"] for one in (last, average)))
    pictures = data.images("digits")
    image = np.stack([pictures[i].image for i in range(0, len(pictures), 2)]) / np.float32(127.5) - 1
    moments = average.module.apply({"params": average.params}, image, method="encode")
    latents = to_latents(average.config, *moments, jax.random.split(jax.random.key(0), len(image)))
    assert np.mean(latents) == pytest.approx(0, abs=0.02)
    assert np.std(latents) == pytest.approx(1, abs=0.02)


def taken(config):
    """The losses of a few steps and the parameters after them."""
    run, losses = images.prepare(config), []
    state = run.state
    with run.batches:
        for _ in range(STEPS):
            state, metrics = run.step(state, run.frozen, next(run.batches))
            losses.append(float(metrics["mse"]))
    return losses, jax.device_get(state.params)


def test_latents_encoded_once_are_those_encoded_at_each_step(config):
    config = dataclasses.replace(config, model=ImageModelConfig(DIT, config.model.process, None))  # compiles in no time
    ways = {"encode": "sample", "cache": "sample", "cache the mean": "mean"}
    found = {
        way: taken(dataclasses.replace(config, latents=way.split()[0], posterior=posterior))
        for way, posterior in ways.items()
    }
    (losses, params), (expected, wanted) = found["cache"], found["encode"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), params, wanted)
    assert abs(losses[0] - found["cache the mean"][0][0]) > 1e-3


def test_a_transformers_patches_cover_as_many_pixels_in_latents(config):
    config = dataclasses.replace(config, model=ImageModelConfig(DIT, config.model.process, None))
    denoiser = in_latents(config, read_autoencoder(config)).model.denoiser
    assert (denoiser.sample_size, denoiser.patch_size) == (DIT.sample_size // 2, DIT.patch_size // 2)


def test_a_cached_batch_is_what_the_autoencoder_says_of_its_pictures(config):
    batches = [images.prepare(dataclasses.replace(config, latents=latents)).batches for latents in ("encode", "cache")]
    batches[1].set_state(json.loads(json.dumps(batches[1].get_state())))
    for _ in range(2):
        shown, kept = map(next, batches)
    assert "image" not in kept
    assert "index" not in kept
    for name in ("example_id", "text_encoder", "weights"):
        np.testing.assert_array_equal(shown[name], kept[name])
    coder = fmzoo.load(config.autoencoder, average=True)
    mean, logvar = coder.module.apply({"params": coder.params}, shown["image"], method="encode")
    np.testing.assert_allclose(kept["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(kept["logvar"], logvar, atol=1e-5)


def test_a_run_in_latents_loads_and_draws(config, coder, tmp_path, monkeypatch):
    small_image_runs.leave_out_reports(monkeypatch.setattr)
    assert pretrain_images(dataclasses.replace(config, latents="cache"), tmp_path / "run")
    values = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (values["denoiser"]["sample_size"], values["denoiser"]["in_channels"]) == (4, 2)
    assert values["process"]["threshold"] is None
    pretrained = fmzoo.load(tmp_path / "run")
    source = fmzoo.load(coder, average=True)
    assert pretrained.config.autoencoder == source.config
    jax.tree.map(np.testing.assert_array_equal, pretrained.params["autoencoder"], source.params)
    drawn = generate.images(pretrained, ["the digit one"], jax.random.key(0), steps=2)
    assert drawn.shape == (1, 8, 8, 3)
    assert pretrain_images(dataclasses.replace(config, latents="cache", steps=STEPS), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latents": "cache", "crop": "random"}, "crop is 'random'"),
        ({"latents": "cache", "flip": 0.5}, "flip is 0.5"),
        ({"latents": "cache", "autoencoder": None}, "autoencoder is None"),
    ],
)
def test_latents_that_change_are_not_cached(config, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(config, **changes)


def test_another_autoencoder_than_the_model_describes_is_refused(config):
    other = dataclasses.replace(config.model, autoencoder=AutoencoderConfig())
    with pytest.raises(InputError, match="does not hold the one"):
        images.prepare(dataclasses.replace(config, model=other))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 7}, "size is 7"),
        ({"kl": -1.0}, "kl is -1"),
        ({"size": 4}, "patches need 6"),
        ({"model": AutoencoderConfig(3, 2, (4, 8), 1, 4)}, "image_channels is 1"),
    ],
)
def test_parts_of_an_autoencoders_run_must_fit(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(small_image_runs.AUTOENCODER, **changes)


def test_an_autoencoder_is_trained_without_a_critic():
    config = dataclasses.replace(small_image_runs.AUTOENCODER, discriminator=None, microbatches=2)
    run = autoencoders.prepare(config)
    assert set(run.state) == {"autoencoder"}
    state, metrics = run.step(run.state, {}, next(run.batches))
    assert int(state["autoencoder"].step) == 1
    assert "autoencoder/adversarial" not in metrics
