"""Pictures from prompts: text or class to image, image to image, inpainting, on one device or a mesh."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo import diffusion, parallel
from fmzoo.errors import InputError
from fmzoo.generate.conditions import Prompts, conditions_of
from fmzoo.generate.image_sampling import Listener, Rows, Settings, draw, listening
from fmzoo.generate.pictures import Shape, decode, preview, read_known, read_latents, shape_of
from fmzoo.models import Pretrained
from fmzoo.models.denoiser import make_denoiser

Array = jax.Array
OnPreview = Callable[[int, int, np.ndarray], None]


def images(
    pretrained: Pretrained,
    prompts: Prompts,
    key: Array,
    *,
    solver: str = "dpm++2m",
    steps: int = 25,
    guidance_scale: float = 7.5,
    negative: str | Sequence[str] | None = None,
    latents: Array | None = None,
    size: tuple[int, int] | None = None,
    image: np.ndarray | None = None,
    strength: float = 0.8,
    mask: np.ndarray | None = None,
    time_ids: Sequence[float] | np.ndarray | None = None,
    guidance_rescale: float = 0.0,
    guidance_interval: tuple[float, float] | None = None,
    example_ids: Sequence[int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    on_preview: OnPreview | None = None,
    preview_of: Literal["estimate", "sample"] = "estimate",
) -> np.ndarray:
    """Draws a picture for each prompt.

    A picture depends on its prompt, its example id and the key, not on those beside it. The whole loop is one compiled
    scan, compiled once for a number of rows, a size, a solver and its steps; another guidance scale compiles nothing.

    Args:
      pretrained: a system of `fmzoo.load`: a denoiser with, if it has them, text encoders and an autoencoder.
      prompts: a text for each picture; the number of its class, for a class-conditional model; anything, such as the
        empty text, for a model that is told nothing.
      key: of all randomness.
      solver: a name of `fmzoo.diffusion.SOLVERS`.
      steps: of the solver.
      guidance_scale: w of ``unconditional + w (conditional - unconditional)``; 1 is none, and half the work.
      negative: what to lead away from, for all or for each; None is the empty text, or no class.
      latents: noise ``[B, h, w, c]`` to begin with, before it is scaled by the first noise level.
      size: height and width; None is the model's own, or that of ``latents`` or ``image``.
      image: what to begin with, ``uint8 [B, H, W, 3]`` or one ``[H, W, 3]`` for all.
      strength: how much of the noising ``image`` goes through, above 0 (little changes) to 1: the last steps of that
        share are taken, as in diffusers; with a mask and 1 nothing is left of the picture but what the mask spares.
      mask: ``[B, H, W]`` or ``[H, W]``, not 0 where ``image`` is to be drawn anew. A denoiser with channels for mask
        and masked picture is given those; with any other the rest of the picture, noised, is put back after each step.
      time_ids: what SDXL is told of sizes, ``[6]`` or ``[B, 6]``: original height and width, top and left of the crop,
        target height and width (of a refiner's five the last is the aesthetic score); None is a whole picture of the
        size drawn.
      guidance_rescale: share of the result brought back to the conditional output's deviation (arXiv 2305.08891).
      guidance_interval: noise levels (sigma / alpha) between which guidance applies; None is all (arXiv 2404.07724).
      example_ids: a number for each prompt that its key is folded with; None is its place in the list.
      mesh: rows are split over its data axes, and the parameters are on every device.
      on_preview: called after each evaluation of the denoiser with their number so far and in all, and what is at hand
        as pictures ``uint8 [B, h, w, 3]``, of latents the first three directions.
      preview_of: the estimate of the end result, or the noisy sample.

    Returns:
      ``uint8 [B, H, W, 3]``.

    Raises:
      InputError: no prompt, a number out of range, a shape that does not fit, or samples that are not finite.
    """
    config = pretrained.config
    prompts = [prompts] if isinstance(prompts, str | int | np.integer) else list(prompts)
    check_numbers(prompts, strength)
    start, evaluations = begin_at(config.process, solver, steps, strength if image is not None else 1.0)
    shape = shape_of(config, size, latents, image)
    check_channels(config, shape.channels, mask is not None)
    keys = keys_of(key, len(prompts), example_ids)
    told, away = conditions_of(pretrained, prompts, negative, shape, time_ids)
    params = pretrained.params if mesh is None else parallel.place(pretrained.params, mesh, move=False)
    rows = Rows(
        keys=jax.vmap(jax.random.fold_in, (0, None))(keys, 1),
        noise=read_latents(latents, keys, shape),
        conditional=told,
    )
    guided = guidance_scale != 1 and bool(away)
    if guided:
        rows["unconditional"] = away
    if image is not None or mask is not None:
        rows |= read_known(config, params, image, mask, len(prompts), shape)
    if mesh is not None:
        rows = place_rows(rows, mesh, len(prompts))
    module = make_denoiser(config.denoiser)
    settings = Settings(module, config.process, solver, steps, start, guided, guidance_rescale, on_preview is not None)
    guidance = dict(zip(("low", "high"), map(jnp.float32, guidance_interval or (-1.0, np.inf)), strict=True))
    guidance["scale"] = jnp.float32(guidance_scale)
    with listening(previews(on_preview, evaluations, shape, preview_of) if on_preview else None) as listener:
        samples = jax.block_until_ready(draw(settings, params["denoiser"], rows, guidance, listener))
    return decode(config, params, samples)


def check_numbers(prompts: Sequence[Any], strength: float) -> None:
    """Refuses what no model could take.

    Raises:
      InputError: there is no prompt, or the strength is out of range.
    """
    if not prompts:
        raise InputError("prompts is an empty list; at least one prompt is needed")
    if not 0 < strength <= 1:
        raise InputError(f"strength is {strength}; a number above 0 and at most 1 is needed")


def check_channels(config: Any, channels: int, masked: bool) -> None:
    """Refuses a denoiser whose further channels nothing given here is for.

    Raises:
      InputError: it reads a mask and there is none, or channels of another kind.
    """
    more = config.denoiser.in_channels - channels
    if more == channels + 1 and not masked:
        raise InputError("image and mask are needed, as the denoiser paints in: it reads a mask and a masked picture")
    if more not in (0, channels + 1):
        raise InputError(
            f"denoiser reads {more} channels besides a sample's {channels}; 0, or {channels + 1} for a mask and a "
            "masked picture, are needed to draw"
        )


def keys_of(key: Array, count: int, example_ids: Sequence[int] | None) -> Array:
    """A key for each picture.

    Raises:
      InputError: there are not as many ids as prompts.
    """
    ids = jnp.arange(count) if example_ids is None else jnp.asarray(example_ids)
    if ids.shape != (count,):
        raise InputError(f"example_ids has {ids.size} numbers for {count} prompts; one for each is needed")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def begin_at(process: diffusion.Process, solver: str, steps: int, strength: float) -> tuple[int, int]:
    """The step to begin with, since the last ``strength`` share of them is taken, and the evaluations to do from there.

    Raises:
      InputError: that is no step.
    """
    whole = diffusion.plan(process, solver, steps)
    left = steps - min(int(steps * strength), steps)
    if process.schedule == "flow":  # where diffusers rounds what is left out, not what is taken
        left = int(max(steps - steps * strength, 0))
    if left == steps:
        raise InputError(f"strength is {strength} of {steps} steps, which takes none; at least {1 / steps:g} is needed")
    return left, len(diffusion.plan(process, solver, steps, left)) if left else len(whole)


def place_rows(rows: Rows, mesh: jax.sharding.Mesh, count: int) -> Rows:
    """Rows over the data axes of a mesh.

    Raises:
      InputError: they do not divide.
    """
    parallel.check_rows(count, mesh.shape["data"] * mesh.shape["fsdp"], "devices")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    return jax.device_put(rows, sharding)


def previews(on_preview: OnPreview, evaluations: int, shape: Shape, of: str) -> Listener:
    """A listener that counts evaluations and hands pictures on."""
    done = 0

    def listen(sample: np.ndarray, x0: np.ndarray) -> None:
        nonlocal done
        done += 1
        on_preview(min(done, evaluations), evaluations, preview(x0 if of == "estimate" else sample, shape))

    return listen
