"""Image to image, inpainting, guidance rescaled, and classes: the pipelines of diffusers draw the same from one noise.

diffusers draws its noise, and latents of a picture, from a generator of torch's; here both are given: the noise is ours
and the latents are their mean. Its PNDM loses count of a walk that does not begin at the beginning, so that PLMS is
compared at full strength only.
"""

import sys

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo.errors import InputError
from fmzoo.generate import conditions, images
from tests.reference.random_systems import (
    CONTRAST,
    NEGATIVE,
    PROMPTS,
    SCALE,
    SIZE,
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
IMAGE = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
MASK = np.zeros(SIZE, np.uint8)
MASK[5:19, 3:] = 1  # its edges lie within squares of the autoencoder
SCHEDULERS = {
    "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "heun": "HeunDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler", "plms": "PNDMScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
}  # fmt: skip
CLASSES = {"sd1": "StableDiffusion", "sd2": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3"}


class Pair:
    """A system of diffusers and what is loaded of it, with one noise for each prompt."""

    def __init__(self, family, folder, **changes):
        self.family, self.pipeline = family, reference(family, folder, **changes)
        self.folder = folder / "saved"
        self.pipeline.save_pretrained(self.folder)
        self.ours = fmzoo.load(self.folder)
        channels = self.ours.config.autoencoder.latent_channels
        shape = 1, SIZE[0] // 2, SIZE[1] // 2, channels
        one = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
        self.noise = np.repeat(one, len(PROMPTS), axis=0)

    def draw(self, solver, **settings):
        """Ours."""
        return images(
            self.ours, PROMPTS, jax.random.key(0), solver=solver, steps=STEPS, guidance_scale=SCALE, negative=NEGATIVE,
            latents=self.noise, **settings,
        )  # fmt: skip

    def draw_reference(self, kind, solver, monkeypatch, **settings):
        """Theirs: ``kind`` is Img2Img or Inpaint."""
        import diffusers
        import torch
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        cls = getattr(diffusers, f"{CLASSES[self.family]}{kind}Pipeline")
        parts = {k: v for k, v in self.pipeline.components.items() if k in (*cls.__init__.__annotations__, "vae")}
        pipeline = cls(**parts, **self.pipeline_options())
        scheduler = getattr(diffusers, SCHEDULERS[solver])
        pipeline.scheduler = scheduler.from_pretrained(self.folder, subfolder="scheduler")  # saved, defaults are given
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.from_numpy(np.moveaxis(self.noise, -1, 1).copy())
        monkeypatch.setattr(sys.modules[cls.__module__], "randn_tensor", lambda *_, **__: noise.clone())
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
        given = {"image": torch.from_numpy(np.moveaxis(IMAGE / np.float32(255), -1, 0)).repeat(len(PROMPTS), 1, 1, 1)}
        if kind == "Inpaint":
            given["mask_image"] = torch.from_numpy(MASK.astype(np.float32))[None, None].repeat(len(PROMPTS), 1, 1, 1)
        if kind == "Inpaint" or self.family == "sd3":
            given |= {"height": SIZE[0], "width": SIZE[1]}
        pictures = pipeline(
            prompt=PROMPTS, negative_prompt=[NEGATIVE] * len(PROMPTS), num_inference_steps=STEPS, guidance_scale=SCALE,
            output_type="np", **given, **settings,
        ).images  # fmt: skip
        return to_bytes(pictures)

    def pipeline_options(self):
        if self.family == "sdxl":
            return {"add_watermarker": False, "requires_aesthetics_score": self.ours.config.denoiser.added_dim == 54}
        return {"requires_safety_checker": False} if self.family in ("sd1", "sd2") else {}


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
    [("sd1", "dpm++2m", 1.0), ("sd2", "ddim", 0.6), ("sdxl", "euler", 0.5), ("sd3", "flow-euler", 0.5)],
)
def test_image_to_image(pairs, monkeypatch, family, solver, strength):
    pair = pairs(family)
    theirs = pair.draw_reference("Img2Img", solver, monkeypatch, strength=strength)
    same(pair.draw(solver, image=IMAGE, strength=strength), theirs)
    other = pair.draw(solver, image=255 - IMAGE, strength=strength)
    assert difference(other, theirs) > 2 * TOLERANCE  # at strength 1 little is left of the image


@pytest.mark.parametrize(
    ("family", "solver", "strength"),
    [
        ("sd1", "plms", 1.0),
        ("sd1", "heun", 0.6),
        ("sd2", "unipc", 1.0),
        ("sdxl", "euler", 0.6),
    ],
)
def test_a_mask_with_a_network_that_reads_none(pairs, monkeypatch, family, solver, strength):
    pair = pairs(family)
    theirs = pair.draw_reference("Inpaint", solver, monkeypatch, strength=strength)
    same(pair.draw(solver, image=IMAGE, mask=MASK, strength=strength), theirs)


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
