"""A denoiser that is told sizes and crops (arXiv 2307.01952, section 2.2): from files of any size to what it learns."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

import fmzoo
from fmzoo import generate
from fmzoo.errors import InputError
from fmzoo.models.denoiser import denoise
from fmzoo.stages import images, pretrain_images
from tests.stages import small_image_runs

pytestmark = pytest.mark.usefixtures("one_device")
SIZES = ((8, 12), (20, 10), (16, 16))  # height and width of the files


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    for number, (height, width) in enumerate(SIZES):
        ramp = np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)
        Image.fromarray(ramp).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"ramp {number}")
    base = small_image_runs.IMAGES
    denoiser = dataclasses.replace(base.model.denoiser, added_dim=8 + 6 * 4, added_number_dim=4)
    model = dataclasses.replace(base.model, denoiser=denoiser)
    return dataclasses.replace(base, model=model, data=str(folder), crop="random", steps=2, checkpoint_every=2)


def test_the_denoiser_learns_what_the_files_and_crops_were(config):
    run = images.prepare(config)
    batch = next(run.batches)
    original, corner, target = np.split(batch["time_ids"], 3, axis=1)
    assert {tuple(row) for row in original.astype(int).tolist()} == set(SIZES)
    assert np.all(target == 8)
    for (height, width), (top, left) in zip(original, corner, strict=True):
        scale = 8 / min(height, width)
        assert 0 <= top <= round(height * scale) - 8
        assert 0 <= left <= round(width * scale) - 8
    assert len(np.unique(corner, axis=0)) > 2
    flipped = batch | {"time_ids": batch["time_ids"][::-1]}
    begun = jax.tree.map(lambda leaf: leaf.copy(), run.state)  # which a step takes
    (told, told_params), (otherwise, other_params) = taken(run, run.state, batch), taken(run, begun, flipped)
    assert told != otherwise
    for leaf, other in zip(*map(jax.tree.leaves, (told_params, other_params)), strict=True):
        assert np.abs(leaf - other).max() > 0


def taken(run, state, batch):
    """The error after two steps on a batch, and the embedding of sizes after them; the first leaves zeros behind."""
    state, _ = run.step(state, {}, batch)
    state, metrics = run.step(state, {}, batch)
    return float(metrics["mse"]), jax.device_get(state.params["denoiser"]["added"])


def test_a_run_that_was_told_sizes_loads_and_draws_at_another(config, tmp_path, monkeypatch):
    small_image_runs.leave_out_reports(monkeypatch.setattr)
    assert pretrain_images(config, tmp_path / "run")
    pretrained = fmzoo.load(tmp_path / "run", average=True)
    assert pretrained.config.family == "sdxl"
    drawn = generate.images(pretrained, ["ramp 1"], jax.random.key(0), steps=2, size=(8, 16))
    assert drawn.shape == (1, 8, 16, 3)
    x, t, told = np.ones((1, 8, 8, 1), np.float32), np.ones(1), {"context": np.ones((1, 2, 8), np.float32)}
    told["pooled"] = np.ones((1, 8), np.float32)
    say = jax.jit(functools.partial(denoise, pretrained.module, pretrained.params["denoiser"], x, t))
    said = [say(told | {"time_ids": np.float32([ids])}) for ids in ((8, 12, 0, 0, 8, 8), (8, 12, 0, 4, 8, 8))]
    assert float(np.abs(said[0] - said[1]).max()) > 1e-6


def test_widths_that_do_not_add_up_are_refused(config):
    denoiser = dataclasses.replace(config.model.denoiser, added_dim=30)
    with pytest.raises(InputError, match="added_dim is 30; the width 8 .* 6 sizes of added_number_dim 4"):
        images.prepare(dataclasses.replace(config, model=dataclasses.replace(config.model, denoiser=denoiser)))
