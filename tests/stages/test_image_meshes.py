"""Systems that draw, split over eight devices by their rules: one device's loss and gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import models, objectives, parallel, train
from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.interop.image_runs import ImageModelConfig
from fmzoo.models.autoencoder import AutoencoderConfig
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.dit import DiTConfig
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.system_sharding import system_rules
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.models.unet_config import UNetConfig
from fmzoo.stages import images
from fmzoo.stages.image_training import make_objective
from tests.stages import small_image_runs

ROWS = 8
UNET = UNetConfig(
    in_channels=2, out_channels=2, sample_size=4, channels=(8, 16), layers=(1, 1), transformer_layers=(0, 1),
    num_heads=(2, 2), context_dim=8, groups=4, added_dim=8 + 6 * 4, added_number_dim=4, dtype="float64",
)  # fmt: skip
ONE_LEVEL = dataclasses.replace(UNET, channels=(8,), layers=(1,), transformer_layers=(1,), num_heads=(2,), mid="none")
READER = ClipTextConfig(vocab_size=32, d_model=8, num_layers=1, num_heads=2, d_ff=16, context_length=6, dtype="float64")
DIT = DiTConfig(
    sample_size=4, patch_size=2, in_channels=2, out_channels=2, num_classes=10, num_layers=1, num_heads=2, head_dim=4,
    dtype="float64",
)  # fmt: skip
MMDIT = MMDiTConfig(
    sample_size=4, patch_size=2, in_channels=2, out_channels=2, num_layers=2, num_heads=2, head_dim=4,
    context_features=16, pooled_features=8, num_dual_layers=1, dtype="float64",
)  # fmt: skip
CODER = AutoencoderConfig(1, 2, (4, 8), 1, 2, dtype="float64")
PROCESS = Process(prediction="v_prediction", spacing="trailing")
SYSTEMS = {
    "unet in latents": TextToImageConfig(UNET, CODER, {"text_encoder": READER}, PROCESS, "sdxl"),
    "dit": TextToImageConfig(DIT, None, {}, PROCESS, "class"),
    "mmdit": TextToImageConfig(MMDIT, None, {"text_encoder": READER}, PROCESS, "sd3", t5_length=4),
}


def params_of(system):
    """Numbers in every component, none of them 0 as some are when a model is made."""
    x, t, label = jnp.zeros((1, 4, 4, 2)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    arguments = {
        UNetConfig: (x, t, jnp.zeros((1, 2, 8)), {"pooled": jnp.zeros((1, 8)), "time_ids": jnp.zeros((1, 6))}),
        DiTConfig: (x, t, label),
        MMDiTConfig: (x, t, jnp.zeros((1, 2, 16)), jnp.zeros((1, 8))),
    }[type(system.denoiser)]
    modules = {"denoiser": (models.make_denoiser(system.denoiser), arguments)}
    modules |= {
        name: (models.ClipText(config), (jnp.zeros((1, 6), jnp.int32),)) for name, config in system.encoders.items()
    }
    if system.autoencoder is not None:
        modules["autoencoder"] = models.AutoencoderKL(system.autoencoder), (jnp.zeros((1, 8, 8, 1)),)
    shapes = {
        name: jax.eval_shape(module.init, jax.random.key(0), *given)["params"]
        for name, (module, given) in modules.items()
    }
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.2 * draw.standard_normal(leaf.shape), shapes)


def batch_of(system):
    draw = np.random.default_rng(1)
    shape = (ROWS, 8, 8, 1) if system.autoencoder else (ROWS, 4, 4, 2)
    return {
        "image": draw.uniform(-1, 1, shape), "weights": draw.uniform(0.1, 2, ROWS),
        "text_encoder": draw.integers(0, 32, (ROWS, 6)).astype(np.int32),
        "label": draw.integers(0, 10, ROWS).astype(np.int32), "time_ids": draw.uniform(0, 99, (ROWS, 6)),
        "example_id": np.arange(100, 100 + ROWS, dtype=np.int32),
    }  # fmt: skip


class Prompts:
    """The empty caption as tokens."""

    def encode(self, texts):
        return {"text_encoder": np.zeros((len(texts), 6), np.int32)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_eight_devices_find_one_devices_loss_and_gradient(name, x64):
    system = SYSTEMS[name]
    settings = dataclasses.replace(small_image_runs.IMAGES, dropout=0.3)
    objective = make_objective(settings, system, Prompts() if system.encoders else None)
    step = train.update(train.gradients(objective), optax.sgd(1.0))
    params = params_of(system)
    frozen = {name: params.pop(name) for name in ("autoencoder",) if name in params}
    batch, rules, mesh = batch_of(system), system_rules(system), parallel.mesh("data=2,fsdp=2,tensor=2")
    found = []
    for run in (jax.jit(step), parallel.compile(step, mesh, rules)):
        state, metrics = run(train.init_state(params, optax.sgd(1.0), jax.random.key(7)), frozen, batch)
        found.append((float(metrics["loss"]), jax.tree.map(np.subtract, params, jax.device_get(state.params))))
    (loss, gradient), (split_loss, split) = found
    assert split_loss == pytest.approx(loss, rel=1e-9)
    total = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    for (path, whole), leaf in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(split), strict=True):
        # The bias of keys has no gradient but rounding: softmax does not see it.
        assert np.linalg.norm(leaf - whole) <= 1e-9 * np.linalg.norm(whole) + 1e-14 * total, path
    for held in (state.params, parallel.place(frozen, mesh, rules)):
        split_over = {axis for leaf in jax.tree.leaves(held) for axis in leaf.sharding.spec if axis}
        assert split_over == ({"fsdp", "tensor"} if "denoiser" in held else {"fsdp"} if held else set())


def test_adapters_are_split_as_what_they_adapt(x64):
    system = dataclasses.replace(SYSTEMS["unet in latents"], denoiser=ONE_LEVEL)
    params, rules, mesh = params_of(system), system_rules(system), parallel.mesh("data=2,fsdp=2,tensor=2")
    objective = objectives.adapted(make_objective(small_image_runs.IMAGES, system, Prompts()))
    step = train.update(train.gradients(objective), optax.adamw(1e-2))
    adapters = models.init_lora(jax.random.key(0), params, 2, r"attention/(query|out)")
    losses = []
    for run in (jax.jit(step), parallel.compile(step, mesh, rules)):
        state = train.init_state(adapters, optax.adamw(1e-2), jax.random.key(7))
        for _ in range(2):
            state, metrics = run(state, {"base": params}, batch_of(system))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    split_over = {axis for leaf in jax.tree.leaves(state) for axis in leaf.sharding.spec if axis}
    assert split_over == {"fsdp", "tensor"}


def test_a_run_on_a_mesh_is_split_and_learns_the_same(monkeypatch):
    denoiser = dataclasses.replace(DIT, sample_size=8, in_channels=1, out_channels=1, dtype="float32")
    model = ImageModelConfig(denoiser, PROCESS, None)
    losses, held, mesh = [], [], parallel.mesh
    for sizes, devices in (("data=-1", jax.devices()[:1]), ("data=2,fsdp=2,tensor=2", None)):
        monkeypatch.setattr(parallel, "mesh", functools.partial(mesh, devices=devices))
        run = images.prepare(dataclasses.replace(small_image_runs.IMAGES, model=model, mesh=sizes))
        held.append(sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(run.state.ema)))
        state = run.state
        for _ in range(2):
            state, metrics = run.step(state, run.frozen, next(run.batches))
        losses.append(float(metrics["loss"]))
        for leaf, average in zip(*map(jax.tree.leaves, (state.params, state.ema)), strict=True):
            assert average.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert held[1] < 0.5 * held[0]


def test_a_mesh_that_does_not_divide_a_width_is_refused():
    denoiser = dataclasses.replace(small_image_runs.UNET, channels=(4,), groups=2)
    model = ImageModelConfig(denoiser, PROCESS, small_image_runs.READER)
    config = dataclasses.replace(small_image_runs.IMAGES, model=model, mesh="fsdp=8")
    with pytest.raises(InputError, match="fsdp=8 does not divide"):
        images.prepare(config)
