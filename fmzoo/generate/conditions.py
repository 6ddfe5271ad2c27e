"""What a denoiser is told beside a sample and its time: text through encoders, a class, sizes; and the opposite."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmzoo.errors import InputError
from fmzoo.generate.pictures import Shape, rows_of
from fmzoo.models import Pretrained
from fmzoo.models.denoiser import class_count, needed_conditions
from fmzoo.models.text_to_image import encode_prompts

Array = jax.Array
Conditions = dict[str, Array]
Prompts = str | int | Sequence[str] | Sequence[int]
AESTHETIC = 6.0, 2.5  # scores that SDXL's refiner is told of a picture, and of what to lead away from


def conditions_of(
    pretrained: Pretrained,
    prompts: Sequence[Any],
    negative: str | Sequence[str] | None,
    shape: Shape,
    time_ids: Any = None,
) -> tuple[Conditions, Conditions]:
    """What leads towards the prompts, and what guidance leads away from; both empty for a model that is told nothing.

    Args:
      pretrained: the system.
      prompts: texts, or numbers of classes.
      negative: texts; None is the empty one, or no class.
      shape: of the pictures, which SDXL is told.
      time_ids: what it is told in place of that, see `sizes_told`.

    Raises:
      InputError: a prompt is neither a text nor a class, there are not as many negatives as prompts, or the time_ids do
        not fit.
    """
    config, count = pretrained.config, len(prompts)
    needed = needed_conditions(config.denoiser)
    told: Conditions = {}
    away: Conditions = {}
    if config.encoders:
        away = encode(pretrained, negatives(negative, count), empty=negative is None)
        told = encode(pretrained, [text(place, prompt) for place, prompt in enumerate(prompts)])
    elif negative is not None:
        raise InputError(f"negative is {str(negative)[:60]!r} and the model reads no text; None is needed")
    if "label" in needed:
        classes = class_count(config.denoiser)
        told["label"] = jnp.asarray([label(place, prompt, classes) for place, prompt in enumerate(prompts)], jnp.int32)
        away["label"] = jnp.full(count, classes, jnp.int32)
    if "time_ids" in needed:
        numbers = (config.denoiser.added_dim - told["pooled"].shape[-1]) // config.denoiser.added_number_dim
        told["time_ids"], away["time_ids"] = sizes_told(time_ids, numbers, shape, count)
    elif time_ids is not None:
        raise InputError("time_ids are given and the model is told no sizes; None is needed")
    return told, away


def sizes_told(time_ids: Any, numbers: int, shape: Shape, count: int) -> tuple[Array, Array]:
    """What SDXL is told of sizes ``[B, n]`` and what is led away from: the same, but for the score of a refiner.

    Args:
      time_ids: ``[n]`` for all pictures or ``[B, n]``: original height and width, top and left of the crop, and target
        height and width, or a refiner's score; None is the pictures' own size and no crop.
      numbers: n, 6 or a refiner's 5.
      shape: of the pictures.
      count: B.

    Raises:
      InputError: they have another shape or are no finite numbers.
    """
    size, scored = (shape.height, shape.width), numbers == 5
    given = (*size, 0, 0, *(AESTHETIC[:1] if scored else size)) if time_ids is None else time_ids
    rows = rows_of("time_ids", given, str(numbers), count)
    if rows.dtype.kind not in "iuf" or not np.isfinite(rows).all():
        raise InputError(f"time_ids are {str(time_ids)[:60]}; {numbers} finite numbers are needed")
    told = jnp.asarray(rows, jnp.float32)
    return told, told.at[:, -1].set(AESTHETIC[1]) if scored else told


def encode(pretrained: Pretrained, prompts: Sequence[str], empty: bool = False) -> Conditions:
    """Texts through the tokenizers and the encoders of a system.

    Args:
      pretrained: the system.
      prompts: texts.
      empty: they are what stands for no text at all, of which some systems make zeros.

    Raises:
      InputError: the system has no tokenizer, as one from a single file with none beside it, or another model's.
    """
    if pretrained.tokenizer is None:
        needed = ", ".join(name.replace("text_encoder", "tokenizer") for name in pretrained.config.encoders)
        raise InputError(f"the system has no tokenizer; beside its file the folders {needed} of diffusers are needed")
    rows = pretrained.tokenizer.encode(prompts)
    for name, row in rows.items():
        if row.max() >= (known := pretrained.config.encoders[name].vocab_size):
            raise InputError(f"the tokenizer of {name} gives the token {row.max()}; 0 to {known - 1} are needed")
    found = _encode(pretrained.config, {name: pretrained.params[name] for name in rows}, rows)
    if empty and getattr(pretrained.config, "zero_empty_prompt", False):
        return jax.tree.map(jnp.zeros_like, found)
    return found


@functools.partial(jax.jit, static_argnums=0)
def _encode(config: Any, params: Any, rows: dict[str, Array]) -> Conditions:
    return encode_prompts(config, params, rows)


def negatives(negative: str | Sequence[str] | None, count: int) -> list[str]:
    """A negative for each prompt.

    Raises:
      InputError: there are not as many.
    """
    if negative is None or isinstance(negative, str):
        return [negative or ""] * count
    if len(negative) != count:
        raise InputError(f"negative has {len(negative)} texts for {count} prompts; one, or one for each, is needed")
    return list(negative)


def text(place: int, prompt: Any) -> str:
    """A prompt that is a text.

    Raises:
      InputError: it is none.
    """
    if not isinstance(prompt, str):
        raise InputError(f"prompt {place} is {str(prompt)[:60]!r}; a text is needed")
    return prompt


def label(place: int, prompt: Any, classes: int) -> int:
    """A prompt that is the number of a class, perhaps as a text.

    Raises:
      InputError: it is none.
    """
    number = prompt if isinstance(prompt, int | np.integer) else int(prompt) if str(prompt).isdecimal() else -1
    if not 0 <= number < classes:
        raise InputError(f"prompt {place} is {str(prompt)[:60]!r}; a class from 0 to {classes - 1} is needed")
    return int(number)
