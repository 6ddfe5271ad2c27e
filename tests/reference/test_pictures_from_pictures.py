"""Image to image, inpainting, guidance rescaled, sizes, and classes: the pipelines of diffusers draw the same.

Two faults of diffusers 0.42 are mended for that, each with a test that shows it: PNDM loses count of a walk that does
not begin at the beginning, and Stable Diffusion 3 paints in without its autoencoder's shift.
"""

import sys

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo.errors import InputError
from fmzoo.generate import conditions, images
from tests.reference.picture_pairs import IMAGE, MASK, Pair, last_of
from tests.reference.random_systems import (
    CONTRAST,
    PROMPTS,
    SCALE,
    STEPS,
    TOLERANCE,
    difference,
    draw_reference,
    reference,
    to_bytes,
)

pytestmark = [
    pytest.mark.reference,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:prompt of:UserWarning"),
]
PAINTABLE = {"sd3": {"channels": 16}}  # what its pipeline demands


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made = {}

    def pair(family, **changes):
        key = family, *changes
        if key not in made:
            made[key] = Pair(family, tmp_path_factory.mktemp(family), **changes)
        return made[key]

    return pair


def same(ours, theirs):
    assert min(picture.std() for picture in theirs) > CONTRAST
    assert difference(*theirs) > CONTRAST
    assert difference(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "solver", "strength"),
    [
        ("sd1", "dpm++2m", 1.0),
        ("sd1", "plms", 0.6),
        ("sd2", "ddim", 0.6),
        ("sdxl", "euler", 0.5),
        ("sd3", "flow-euler", 0.5),
    ],
)
def test_image_to_image(pairs, monkeypatch, family, solver, strength):
    pair = pairs(family, **PAINTABLE.get(family, {}))
    theirs = pair.draw_reference("Img2Img", solver, monkeypatch, strength=strength)
    same(pair.draw(solver, image=IMAGE, strength=strength), theirs)
    other = pair.draw(solver, image=255 - IMAGE, strength=strength)
    assert difference(other, theirs) > 2 * TOLERANCE  # at strength 1 little is left of the image


@pytest.mark.parametrize(
    ("family", "solver", "strength"),
    [
        ("sd1", "plms", 1.0),
        ("sd1", "plms", 0.8),
        ("sd1", "heun", 0.6),
        ("sd2", "unipc", 1.0),
        ("sdxl", "euler", 0.6),
        ("sd3", "flow-euler", 1.0),
        ("sd3", "flow-euler", 0.6),
    ],
)
def test_a_mask_with_a_network_that_reads_none(pairs, monkeypatch, family, solver, strength):
    pair = pairs(family, **PAINTABLE.get(family, {}))
    theirs = pair.draw_reference("Inpaint", solver, monkeypatch, strength=strength)
    same(pair.draw(solver, image=IMAGE, mask=MASK, strength=strength), theirs)


def test_stable_diffusion_3_of_diffusers_paints_in_without_the_shift(pairs, monkeypatch):
    """Its pipelines decode ``latents / scaling_factor + shift_factor``; that which paints in forgets the second."""
    pair = pairs("sd3", **PAINTABLE["sd3"])
    theirs, mended = (
        pair.draw_reference("Inpaint", "flow-euler", monkeypatch, mended=mended, strength=1.0)
        for mended in (False, True)
    )
    assert difference(theirs, mended) > TOLERANCE


def test_pndm_of_diffusers_loses_a_step_of_a_walk_that_does_not_begin_at_the_beginning(pairs):
    """Its first time comes once, the second twice: from later on it takes the first step twice and lags behind.

    A network that always says the noise leads any solver from alpha x0 + sigma noise to the same at the last level.
    """
    import torch

    scheduler = pairs("sd1").pipeline.scheduler
    x0, noise = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))

    def end(times):
        scheduler.set_timesteps(10)
        times = times(scheduler)
        x = scheduler.add_noise(x0, noise, times[:1])
        for time in times:
            x = scheduler.step(noise, time, x).prev_sample
        return x

    last = scheduler.final_alpha_cumprod
    expected = last.sqrt() * x0 + (1 - last).sqrt() * noise
    assert torch.linalg.norm(end(lambda scheduler: last_of(scheduler, 6)) - expected) < 1e-3 * expected.norm()
    assert torch.linalg.norm(end(lambda scheduler: scheduler.timesteps[4:]) - expected) > 0.05 * expected.norm()


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_network_that_reads_a_mask(pairs, monkeypatch, strength):
    pair = pairs("sd2", paints=True)
    assert pair.ours.config.denoiser.in_channels == 9
    theirs = pair.draw_reference("Inpaint", "ddim", monkeypatch, strength=strength)
    same(pair.draw("ddim", image=IMAGE, mask=MASK, strength=strength), theirs)
    assert difference(pair.draw("ddim", image=IMAGE, mask=1 - MASK, strength=strength), theirs) > CONTRAST
    with pytest.raises(InputError, match="image and mask are needed, as the denoiser paints in"):
        pair.draw("ddim", image=IMAGE)


def test_a_refiner_is_told_how_good_a_picture_is(pairs, monkeypatch):
    pair = pairs("sdxl", refines=True)
    theirs = pair.draw_reference("Img2Img", "euler", monkeypatch, strength=0.6)
    same(pair.draw("euler", image=IMAGE, strength=0.6), theirs)
    monkeypatch.setattr(conditions, "AESTHETIC", (2.5, 6.0))
    assert difference(pair.draw("euler", image=IMAGE, strength=0.6), theirs) > TOLERANCE


SIZES = {"original_size": (100, 70), "crops_coords_top_left": (9, 30), "target_size": (40, 24)}


def test_a_network_is_told_sizes_and_a_crop(pairs):
    pair, told = pairs("sdxl"), [number for pair in SIZES.values() for number in pair]
    theirs = draw_reference(pair.pipeline, pair.noise, **SIZES)
    same(pair.draw("euler", time_ids=told), theirs)
    same(pair.draw("euler", time_ids=[told] * len(PROMPTS)), theirs)
    for order in ((1, 0, 2, 3, 4, 5), (0, 1, 3, 2, 4, 5), (0, 1, 2, 3, 5, 4), (4, 5, 2, 3, 0, 1)):
        assert difference(pair.draw("euler", time_ids=[told[i] for i in order]), theirs) > TOLERANCE


def test_a_refiner_is_told_sizes_and_a_score(pairs, monkeypatch):
    pair, given = pairs("sdxl", refines=True), {"strength": 0.6, "aesthetic_score": 4.5, **SIZES}
    del given["target_size"]
    given["negative_crops_coords_top_left"] = given["crops_coords_top_left"]  # which it leads to 0 unless it is told
    theirs = pair.draw_reference("Img2Img", "euler", monkeypatch, **given)
    same(pair.draw("euler", image=IMAGE, strength=0.6, time_ids=(100, 70, 9, 30, 4.5)), theirs)
    assert difference(pair.draw("euler", image=IMAGE, strength=0.6, time_ids=(100, 70, 9, 30, 6)), theirs) > TOLERANCE


def test_guidance_is_rescaled(pairs):
    pair = pairs("sdxl")
    plain, theirs = (draw_reference(pair.pipeline, pair.noise, guidance_rescale=share) for share in (0.0, 0.7))
    assert difference(plain, theirs) > CONTRAST
    same(pair.draw("euler", guidance_rescale=0.7), theirs)


def test_classes(tmp_path, monkeypatch):
    import torch

    pipeline = reference("class", tmp_path)
    pipeline.save_pretrained(tmp_path / "saved")
    ours = fmzoo.load(tmp_path / "saved")
    assert ours.config.process.learned_variance
    noise = np.random.default_rng(5).standard_normal((1, 8, 8, 4)).astype(np.float32).repeat(2, axis=0)
    latents = torch.from_numpy(np.moveaxis(noise, -1, 1).copy())
    monkeypatch.setattr(sys.modules[type(pipeline).__module__], "randn_tensor", lambda *_, **__: latents.clone())
    theirs = to_bytes(pipeline([3, 998], guidance_scale=SCALE, num_inference_steps=STEPS, output_type="np").images)
    settings = {"solver": "ddim", "steps": STEPS, "guidance_scale": SCALE, "latents": noise}
    same(images(ours, [3, 998], jax.random.key(0), **settings), theirs)
    fmzoo.save(ours, tmp_path / "ours", format="diffusers")
    assert fmzoo.load(tmp_path / "ours").config == ours.config
    again = type(pipeline).from_pretrained(tmp_path / "ours")
    again.set_progress_bar_config(disable=True)
    drawn = to_bytes(again([3, 998], guidance_scale=SCALE, num_inference_steps=STEPS, output_type="np").images)
    assert difference(drawn, theirs) <= TOLERANCE
