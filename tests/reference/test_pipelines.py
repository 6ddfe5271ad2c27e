"""Whole systems against diffusers: what its pipelines save draws the same here, and what is saved here the same there.

Both compute in float32 and round to 8 bits, so that a value between two of them may fall either way; the networks'
rounding errors grow over the steps, which the second level of tolerance is for.
"""

import dataclasses

import jax
import numpy as np
import pytest

import fmzoo
from fmzoo import generate
from fmzoo.text import PromptTokenizer
from tests.reference.random_systems import (
    CONTRAST,
    NEGATIVE,
    PROMPTS,
    SCALE,
    SIZE,
    SOLVERS,
    STEPS,
    TOLERANCE,
    difference,
    draw_reference,
    reference,
)

pytestmark = pytest.mark.reference


def draw(pretrained, family, latents, negative=NEGATIVE):
    return generate.images(
        pretrained, PROMPTS, jax.random.key(0), solver=SOLVERS[family], steps=STEPS, guidance_scale=SCALE,
        negative=negative, latents=latents,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept a copy:DeprecationWarning")  # of diffusers
@pytest.mark.filterwarnings("ignore:prompt of:UserWarning")  # the second prompt is meant to be too long
@pytest.mark.parametrize("family", SOLVERS)
def test_pictures_are_those_of_diffusers_both_ways(family, tmp_path):
    import diffusers

    pipeline = reference(family, tmp_path)
    pipeline.save_pretrained(tmp_path / "theirs")
    ours = fmzoo.load(tmp_path / "theirs")
    assert ours.config.family == family
    channels = ours.config.autoencoder.latent_channels
    latents = np.random.default_rng(5).standard_normal((1, SIZE[0] // 2, SIZE[1] // 2, channels)).astype(np.float32)
    latents = np.repeat(latents, len(PROMPTS), axis=0)
    theirs = draw_reference(pipeline, latents)
    assert min(picture.std() for picture in theirs) > CONTRAST
    assert difference(*theirs) > CONTRAST
    assert difference(draw(ours, family, latents), theirs) <= TOLERANCE

    fmzoo.save(ours, tmp_path / "ours", format="diffusers")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(again) is type(pipeline)
    again.set_progress_bar_config(disable=True)
    assert difference(draw_reference(again, latents), theirs) <= TOLERANCE
    assert fmzoo.load(tmp_path / "ours").config == ours.config

    without = draw_reference(pipeline, latents, None)
    assert difference(without, theirs) > TOLERANCE
    assert difference(draw(ours, family, latents, None), without) <= TOLERANCE
    for error, wrong in planted_errors(ours).items():
        negative = None if error == "zeros" else NEGATIVE
        expected = without if error == "zeros" else theirs
        assert difference(draw(wrong, family, latents, negative), expected) > TOLERANCE, error


def planted_errors(ours):
    """Systems with one mistake each that no compilation is needed for."""
    lengths = ours.tokenizer.lengths
    found = {}
    for name in list(lengths)[:2]:
        changed = PromptTokenizer(ours.tokenizer.tokenizers, lengths | {name: lengths[name]})
        wrong = changed.tokenizers[name]
        copied = type(wrong)(*wrong.__reduce__()[1])
        copied.pad_id = 7
        changed.tokenizers[name] = copied
        found[f"pad of {name}"] = dataclasses.replace(ours, tokenizer=changed)
    if ours.config.family == "sdxl":
        config = dataclasses.replace(ours.config, zero_empty_prompt=False)
        found["zeros"] = dataclasses.replace(ours, config=config)
    return found
