"""A network that computes in bfloat16 draws finite pictures by every solver, and those that float32 draws."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import SOLVERS, Process, estimate, initial, plan
from fmzoo.models.denoiser import denoise, make_denoiser
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.unet_config import UNetConfig

UNET = UNetConfig(
    in_channels=3, out_channels=3, sample_size=4, channels=(4,), layers=(1,), transformer_layers=(1,), num_heads=(1,),
    context_dim=4, groups=2, mid="none",
)  # fmt: skip
MMDIT = MMDiTConfig(
    sample_size=4, patch_size=2, in_channels=3, out_channels=3, num_layers=1, num_heads=1, head_dim=8,
    context_features=4, pooled_features=4,
)  # fmt: skip
NOISE = Process()
PURE = Process(zero_terminal_snr=True, prediction="v_prediction", spacing="trailing")  # begins where no signal is
FLOW = Process(schedule="flow", prediction="velocity", shift=3.0)
MOST = 8  # of 255: the mean difference of a picture from float32's
KEYS = jax.random.split(jax.random.key(3), 2)
LATENTS = jax.vmap(lambda key: jax.random.normal(key, (4, 4, 3)))(KEYS)
TOLD = {"context": jnp.ones((2, 3, 4)) * jnp.array([1.0, -1, 0.5, 2]), "pooled": jnp.ones((2, 4))}


def random_params(config):
    """Weights under which a network says about as much as it hears."""
    module, draw = make_denoiser(config), np.random.default_rng(0).standard_normal
    shapes = jax.eval_shape(lambda: module.init(KEYS[0], LATENTS, jnp.zeros(2), *told_to(config)))["params"]

    def weight(path, leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray((path[-1].key == "scale") + scale * draw(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(weight, shapes)


def told_to(config):
    return (TOLD["context"], TOLD["pooled"]) if config is MMDIT else (TOLD["context"],)


PARAMS = {config: random_params(config) for config in (UNET, MMDIT)}


@functools.partial(jax.jit, static_argnums=0)
def said(config, params, x, t):
    return denoise(make_denoiser(config), params, x, jnp.full(2, t), TOLD)


@functools.partial(jax.jit, static_argnums=(0, 1))
def move(solver, process, row, memory, x, output):
    keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, row["step"].astype(jnp.int32))
    noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys) if SOLVERS[solver].stochastic else None
    heard = estimate(process, output, x, row["alpha"], row["sigma"])
    return SOLVERS[solver].step(row, memory, heard, x, noise)


def draw(solver, process, steps, dtype):
    """What `fmzoo.diffusion.follow` gives, with one compilation of the network for all solvers and steps."""
    config = MMDIT if process is FLOW else UNET
    params, config = PARAMS[config], dataclasses.replace(config, dtype=dtype)
    walk = plan(process, solver, steps)
    x = initial(walk, LATENTS)
    memory = SOLVERS[solver].memory(x)
    rows = {name: np.asarray(column, np.float32) for name, column in walk.rows.items()}
    for i in range(len(walk)):
        row = {name: column[i] for name, column in rows.items()}
        output = said(config, params, x * row["input_scale"], row["time"])
        x, memory = move(solver, walk.process, row, memory, x, output)
    assert x.dtype == jnp.float32
    return np.asarray(x)


def picture(x):
    return np.clip(x / 2 + 0.5, 0, 1) * 255


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_of_bfloat16(solver):
    processes = [process for process in (PURE, NOISE, FLOW) if process.schedule in SOLVERS[solver].schedules]
    for process in processes:
        half, full = (draw(solver, process, 25, dtype) for dtype in ("bfloat16", "float32"))
        assert picture(full).std() > 20
        assert np.isfinite(half).all()
        assert np.abs(half - full).max() > 0
        if not SOLVERS[solver].stochastic:
            assert np.abs(picture(half) - picture(full)).mean() <= MOST
        assert np.isfinite(draw(solver, process, 4, "bfloat16")).all()
    assert np.isfinite(draw(solver, processes[0], 1000, "bfloat16")).all()
