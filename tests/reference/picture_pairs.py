"""A system of diffusers and what is loaded of it, drawing from pictures with one noise.

diffusers draws its noise, and latents of a picture, from a generator of torch's; here both are given: the noise is ours
and the latents are their mean.
"""

import sys

import jax
import numpy as np

import fmzoo
from fmzoo.generate import images
from tests.reference.random_systems import NEGATIVE, PROMPTS, SCALE, SIZE, STEPS, reference, to_bytes

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

    def draw_reference(self, kind, solver, monkeypatch, mended=True, **settings):
        """Theirs: ``kind`` is Img2Img or Inpaint."""
        import torch
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        pipeline = self.pipeline_of(kind, solver)
        noise = torch.from_numpy(np.moveaxis(self.noise, -1, 1).copy())
        monkeypatch.setattr(sys.modules[type(pipeline).__module__], "randn_tensor", lambda *_, **__: noise.clone())
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
        given = {"image": torch.from_numpy(np.moveaxis(IMAGE / np.float32(255), -1, 0)).repeat(len(PROMPTS), 1, 1, 1)}
        if kind == "Inpaint":
            given["mask_image"] = torch.from_numpy(MASK.astype(np.float32))[None, None].repeat(len(PROMPTS), 1, 1, 1)
        if kind == "Inpaint" or self.family == "sd3":
            given |= {"height": SIZE[0], "width": SIZE[1]}
        with monkeypatch.context() as patch:
            if mended and (kind, self.family) == ("Inpaint", "sd3"):
                shift, decode = pipeline.vae.config.shift_factor, pipeline.vae.decode
                patch.setattr(pipeline.vae, "decode", lambda latents, **options: decode(latents + shift, **options))
            if solver == "plms" and settings["strength"] < 1:
                taken = int(STEPS * settings["strength"])
                patch.setattr(pipeline, "get_timesteps", lambda *_, **__: (last_of(pipeline.scheduler, taken), taken))
            pictures = pipeline(
                prompt=PROMPTS, negative_prompt=[NEGATIVE] * len(PROMPTS), num_inference_steps=STEPS,
                guidance_scale=SCALE, output_type="np", **given, **settings,
            ).images  # fmt: skip
        return to_bytes(pictures)

    def pipeline_of(self, kind, solver):
        """What draws from pictures with the parts of the pipeline that draws from nothing."""
        import diffusers

        cls = getattr(diffusers, f"{CLASSES[self.family]}{kind}Pipeline")
        parts = {k: v for k, v in self.pipeline.components.items() if k in (*cls.__init__.__annotations__, "vae")}
        pipeline = cls(**parts, **self.pipeline_options())
        scheduler = getattr(diffusers, SCHEDULERS[solver])
        pipeline.scheduler = scheduler.from_pretrained(self.folder, subfolder="scheduler")  # saved, defaults are given
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_options(self):
        if self.family == "sdxl":
            return {"add_watermarker": False, "requires_aesthetics_score": self.ours.config.denoiser.added_dim == 54}
        return {"requires_safety_checker": False} if self.family in ("sd1", "sd2") else {}


def last_of(scheduler, steps):
    """The times of PNDM's last steps as it would give them to a walk that begins there: the second of them twice."""
    import torch

    times = scheduler.timesteps.unique().flip(0)[-steps:]
    return torch.cat([times[:2], times[1:]])
