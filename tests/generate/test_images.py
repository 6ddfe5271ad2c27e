"""Drawing pictures: what a row depends on, what is kept of a picture, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import generate, parallel
from fmzoo.diffusion import SOLVERS, Process
from fmzoo.errors import InputError
from fmzoo.generate.conditions import sizes_told
from fmzoo.generate.image_sampling import draw
from fmzoo.generate.pictures import Shape
from fmzoo.models import Pretrained
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL
from fmzoo.models.clip_text import ClipText, ClipTextConfig
from fmzoo.models.dit import DiT, DiTConfig
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.models.unet import UNet
from fmzoo.models.unet_config import UNetConfig
from fmzoo.text import PromptTokenizer, train_bpe

KEY = jax.random.key(5)
PROCESS = Process(num_train_timesteps=100, beta_end=0.1, prediction="v_prediction", spacing="trailing", steps_offset=0)
VALUES = DiTConfig(
    sample_size=8, patch_size=2, in_channels=3, out_channels=3, num_classes=4, num_layers=1, num_heads=2, head_dim=8
)


def init(module, *arguments):
    """Parameters away from the zeros with which an untrained network says nothing."""
    shapes = jax.eval_shape(module.init, KEY, *arguments)["params"]
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw(size=leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def classes():
    """A class-conditional transformer over 8 x 8 pixels."""
    module = DiT(VALUES)
    params = init(module, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    return Pretrained(module, {"denoiser": params}, TextToImageConfig(VALUES, None, {}, PROCESS, "class"))


@pytest.fixture(scope="module")
def words():
    """A latent U-Net with an encoder of captions, all tiny."""
    unet = UNetConfig(
        in_channels=2, out_channels=2, sample_size=4, channels=(8,), layers=(1,), transformer_layers=(1,),
        num_heads=(2,), context_dim=8, groups=4, mid="none",
    )  # fmt: skip
    coder = AutoencoderConfig(latent_channels=2, channels=(4, 4), layers_per_block=1, norm_groups=2)
    reader = ClipTextConfig(vocab_size=260, d_model=8, num_layers=1, num_heads=2, d_ff=16, context_length=12)
    config = TextToImageConfig(unet, coder, {"text_encoder": reader}, PROCESS, "sd1")
    sample, context = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 12, 8))
    params = {
        "denoiser": init(UNet(unet), sample, jnp.zeros(1), context),
        "autoencoder": init(AutoencoderKL(coder), jnp.zeros((1, 8, 8, 3))),
        "text_encoder": init(ClipText(reader), jnp.zeros((1, 12), jnp.int32)),
    }
    tokenizer = PromptTokenizer({"text_encoder": train_bpe(["a red dot"], 260, pad=True)}, {"text_encoder": 12})
    return Pretrained(UNet(unet), params, config, tokenizer)


def take(pretrained, prompts, **settings):
    return generate.images(pretrained, prompts, KEY, **{"steps": 3, "guidance_scale": 2.0, **settings})


def near(a, b, most=1):
    return np.abs(a.astype(int) - b.astype(int)).max() <= most


def test_pictures_are_bytes_and_differ_by_prompt_and_row(classes):
    found = take(classes, [0, 1, 1])
    assert found.shape == (3, 8, 8, 3)
    assert found.dtype == np.uint8
    assert found.std() > 20
    assert not near(found[1], found[2], 20)  # one prompt, two rows
    same = take(classes, [0, 1, 2], example_ids=[7, 7, 7])
    assert not near(same[0], same[1], 5)  # one noise, two prompts


def test_a_picture_does_not_depend_on_its_batch(classes):
    whole = take(classes, [0, 1, 2], solver="euler-a")
    alone = take(classes, [2], solver="euler-a", example_ids=[2])
    assert near(whole[2:], alone)


def test_a_mesh_draws_the_same(classes):
    prompts, seen = [0, 1, 2, 3] * 2, []
    mesh = parallel.mesh("data=4,fsdp=2")
    spread = take(classes, prompts, mesh=mesh, on_preview=lambda done, total, pictures: seen.append((done, pictures)))
    assert near(spread, take(classes, prompts))
    assert [done for done, _ in seen] == [1, 2, 3]
    assert near(seen[-1][1], spread)
    with pytest.raises(InputError, match="8 devices"):
        take(classes, prompts[:3], mesh=parallel.mesh("data=4,fsdp=2"))


def test_a_mesh_paints_in_the_same_with_words(words):
    """Through encoders and an autoencoder, rows of known pictures beside those of noise."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    given = {"image": image, "mask": np.eye(8), "strength": 0.7, "solver": "euler-a"}
    spread = take(words, ["a red dot", "dot"] * 2, mesh=parallel.mesh("data=4", jax.devices()[:4]), **given)
    assert near(spread, take(words, ["a red dot", "dot"] * 2, **given))
    assert not near(spread[0], spread[2], 5)


def test_another_scale_or_listener_compiles_nothing(classes):
    take(classes, [0, 1, 2], on_preview=lambda *_: None)
    before = draw._cache_size()
    take(classes, [3, 1, 2], guidance_scale=5.0, on_preview=lambda *_: None, guidance_interval=(0.1, 5.0))
    assert draw._cache_size() == before


def test_guidance_is_what_it_is_called(classes):
    plain, none = take(classes, [0, 1], guidance_scale=1.0), take(classes, [0, 1], guidance_interval=(1e6, 1e7))
    assert near(plain, none)
    assert not near(plain, take(classes, [0, 1]), 5)


def test_latents_take_the_place_of_noise(classes):
    latents = jax.random.normal(KEY, (2, 8, 8, 3))
    one, two = take(classes, [0, 1], latents=latents), take(classes, [0, 1], latents=latents, example_ids=[5, 6])
    np.testing.assert_array_equal(one, two)
    assert not near(one, take(classes, [0, 1]), 5)


def test_previews_come_while_it_runs_and_end_in_the_picture(classes):
    seen = []
    found = take(classes, [0, 1, 2], on_preview=lambda done, total, pictures: seen.append((done, total, pictures)))
    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert {total for _, total, _ in seen} == {3}
    assert near(seen[-1][2], found)


@pytest.mark.parametrize("solver", ["ddim", "heun", "plms"])
def test_what_is_not_masked_is_kept(classes, solver):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mask = np.zeros((8, 8))
    mask[:4] = 1
    found = take(classes, [0, 1], image=image, mask=mask, strength=1.0, solver=solver)
    assert near(found[:, 4:], np.stack([image, image])[:, 4:])
    assert not near(found[:, :4], np.stack([image, image])[:, :4], 20)


def test_less_strength_stays_nearer(classes):
    image = np.full((8, 8, 3), 200, np.uint8)
    little, much = (take(classes, [0], image=image, strength=s, steps=10).astype(int) for s in (0.1, 0.9))
    assert np.abs(little - 200).mean() < np.abs(much - 200).mean()


def test_text_leads_and_a_negative_leads_away(words):
    plain = take(words, ["a red dot", "a red dot"], example_ids=[1, 1], guidance_scale=40.0)
    np.testing.assert_array_equal(plain[0], plain[1])
    away = {"negative": ["", "a red dot"], "guidance_scale": 40.0}
    other = take(words, ["a red dot", "nothing"], example_ids=[1, 1], **away)
    assert other.shape == (2, 8, 8, 3)
    assert near(other[0], plain[0])
    assert not near(other[0], other[1], 5)
    assert take(words, ["x"], size=(12, 16)).shape == (1, 12, 16, 3)
    assert take(words, ["x"], image=np.zeros((8, 8, 3), np.uint8), mask=np.ones((8, 8))).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [4]}, "class from 0 to 3"),
        ({"prompts": ["two"]}, "'two'"),
        ({"solver": "dpm"}, "dpm\\+\\+2m"),
        ({"steps": 0}, "steps is 0"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"size": (7, 0)}, "width is 0"),
        ({"latents": np.zeros((1, 4, 4, 4))}, "latents has shape"),
        ({"image": np.zeros((8, 8, 3))}, "uint8"),
        ({"mask": np.zeros((8, 8))}, "image is None"),
        ({"negative": "a dog"}, "reads no text"),
        ({"example_ids": [1, 2]}, "2 numbers for 1 prompts"),
        ({"time_ids": [8, 8, 0, 0, 8, 8]}, "told no sizes"),
        ({"prompts": [0, 1], "image": np.zeros((3, 8, 8, 3), np.uint8)}, r"shape \(3, 8, 8, 3\) for 2 prompts"),
    ],
)
def test_what_does_not_fit_is_refused(classes, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        take(classes, **{"prompts": [0], **settings})


def test_sizes_are_told_once_or_for_each():
    shape, each = Shape(8, 12, 2, 4), np.arange(12).reshape(2, 6)
    for given, expected in ((None, [[8, 12, 0, 0, 8, 12]] * 2), (each[0], [each[0]] * 2), (each, each)):
        for rows in sizes_told(given, 6, shape, 2):
            np.testing.assert_array_equal(rows, expected)
    for given, size, score in ((None, [8, 12, 0, 0], 6.0), ([9, 9, 1, 2, 4.5], [9, 9, 1, 2], 4.5)):
        told, away = sizes_told(given, 5, shape, 2)
        np.testing.assert_array_equal(told, [[*size, score]] * 2)
        np.testing.assert_array_equal(away, [[*size, 2.5]] * 2)
    for given, sentence in ((each[:, :5], "6"), (np.tile(each, (2, 1)), "2 prompts"), ([np.nan] * 6, "finite")):
        with pytest.raises(InputError, match=sentence):
            sizes_told(given, 6, shape, 2)


def test_text_models_refuse_numbers_and_sizes_between(words):
    with pytest.raises(InputError, match="a text is needed"):
        take(words, [3])
    with pytest.raises(InputError, match="height is 9; a multiple of 2"):
        take(words, ["x"], size=(9, 8))


def test_broken_parameters_are_told_and_drawn_nowhere(classes):
    broken = jax.tree.map(lambda p: p * jnp.nan, classes.params)
    with pytest.raises(InputError, match="not finite"):
        take(Pretrained(classes.module, broken, classes.config), [0])


def test_the_default_solver_is_one():
    assert "dpm++2m" in SOLVERS
