"""Checkpoints: back on another mesh, of another shape refused, parameters alone, the moving average if asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import models, parallel, train
from fmzoo.errors import InputError
from tests.train.probes import decoder, params_of

OPTIMIZER = optax.adamw(1e-3)
RULES = models.DECODER_RULES


@functools.partial(jax.jit, static_argnums=(0, 1))
def state_of(module, seed=0):
    """A state whose every array is its own: moments and average differ from the parameters."""
    state = train.init_state(params_of(module, seed), OPTIMIZER, jax.random.key(seed), ema=True, carry=jnp.arange(3.0))
    grads = jax.tree.map(lambda leaf: 0.1 * leaf + 0.01, state.params)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
    return state.replace(step=state.step + 1, params=optax.apply_updates(state.params, updates), opt_state=opt_state)


def data_of(state):
    plain = state.replace(rng=jax.random.key_data(state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(plain)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint written from a mesh of eight devices, split by the rules, and its state."""
    folder, module = tmp_path_factory.mktemp("run") / "checkpoints", decoder()
    state = parallel.place(state_of(module), parallel.mesh("data=2,fsdp=4"), RULES)
    with train.Checkpoints(folder) as checkpoints:
        checkpoints.save(3, state, {"examples": 24})
    return folder, module, state


@pytest.mark.parametrize("mesh", ["data=8", "data=2,fsdp=2,tensor=2", "fsdp=2,tensor=1", "data=1"])
def test_a_state_comes_back_onto_any_mesh(saved, mesh):
    folder, module, state = saved
    devices = jax.devices()[: np.prod(list(parallel.parse_mesh(mesh).values()))]
    like = jax.eval_shape(lambda: state_of(module, seed=1))
    target = parallel.mesh(mesh, devices)
    shardings = parallel.state_shardings(like, target, RULES)
    like = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), like, shardings)
    with train.Checkpoints(folder) as checkpoints:
        found, data, step = checkpoints.restore(like)
    assert (data, step) == ({"examples": 24}, 3)
    for a, b in zip(data_of(found), data_of(state), strict=True):
        np.testing.assert_array_equal(a, b)
    for leaf, where in zip(jax.tree.leaves(found), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
    assert found.rng.dtype == state.rng.dtype


def test_a_state_restored_by_a_like_of_arrays_leaves_them_be(saved):
    folder, module, state = saved
    like = state_of(module, seed=1)
    with train.Checkpoints(folder) as checkpoints:
        found, _, _ = checkpoints.restore(like, step=3)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(like))
    for a, b in zip(data_of(found), data_of(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 40}, r"its params/embed is \(32, 16\) and this run's is \(40, 16\)"),
        ({"num_layers": 3}, r"its params/period/0/attention/key/kernel is \(2, 16, 8\) and this run's is \(3, 16, 8\)"),
        ({"mlp__gated": False}, r"its params/period/0/mlp/gate/kernel is \(2, 16, 24\) and this run's is absent"),
        ({"tied_head": True}, r"its params/head is \(16, 32\) and this run's is absent"),
        ({"attention__qkv_bias": True}, r"its params/period/0/attention/key/bias is absent and this run's is \(2, 8\)"),
    ],
)
def test_another_shape_is_refused_in_one_sentence(saved, change, words):
    folder, _, _ = saved
    like = jax.eval_shape(lambda: state_of(decoder(**change)))
    with (
        train.Checkpoints(folder) as checkpoints,
        pytest.raises(InputError, match=rf"checkpoint .*/3 does not fit: {words}; one of the same model and") as error,
    ):
        checkpoints.restore(like)
    assert len(str(error.value)) < 300


def test_another_optimizer_is_refused(saved):
    folder, module, _ = saved
    momentum = optax.sgd(0.1, momentum=0.9)
    like = jax.eval_shape(lambda: train.init_state(params_of(module), momentum, jax.random.key(0), ema=True))
    with train.Checkpoints(folder) as checkpoints, pytest.raises(InputError, match=r"its carry is \(3,\) and this run"):
        checkpoints.restore(like)
    like = like.replace(carry=jnp.arange(3.0))
    with train.Checkpoints(folder) as checkpoints, pytest.raises(InputError, match="its opt_state/0/count is"):
        checkpoints.restore(like)


def test_parameters_are_read_alone_and_whole(saved):
    folder, _, state = saved
    params, step = train.load_params(folder)
    assert step == 3
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.tree.structure(params) == jax.tree.structure(state.params)


def test_the_moving_average_is_read_if_asked(saved, tmp_path):
    folder, _, state = saved
    average, _ = train.load_params(folder, average=True)
    for a, b, c in zip(*(jax.tree.leaves(tree) for tree in (average, state.ema, state.params)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    with train.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state.replace(ema=None), {})
    with pytest.raises(InputError, match=r"keeps no moving average; a run with ema above 0 is needed"):
        train.load_params(tmp_path / "checkpoints", average=True)
    assert train.load_params(tmp_path / "checkpoints")[1] == 1


def test_what_is_not_there_is_said(saved, tmp_path):
    folder, module, _ = saved
    with pytest.raises(InputError, match=r"has no step 7; it holds the steps \[3\]"):
        train.load_params(folder, step=7)
    with pytest.raises(InputError, match=r"nothing has no complete checkpoint; it holds the steps \[\]"):
        train.load_params(tmp_path / "nothing")
    with train.Checkpoints(tmp_path / "nothing") as checkpoints:
        assert checkpoints.steps == []
        with pytest.raises(InputError, match="has no complete checkpoint"):
            checkpoints.restore(state_of(module))
    assert not (tmp_path / "nothing").exists()


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    """The step after a save overwrites the memory at once; what is on disk is the state before it."""
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)
    state = {"params": {"w": jnp.arange(2.0**18)}}
    with train.Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {"step": step})
            state = double(state)
    for step in (1, 2):
        params, _ = train.load_params(tmp_path, step)
        np.testing.assert_array_equal(params["w"], np.arange(2.0**18) * 2 ** (step - 1))


def test_a_damaged_checkpoint_is_one_sentence(saved, tmp_path):
    import shutil

    folder, module, _ = saved
    copy = tmp_path / "checkpoints"
    shutil.copytree(folder, copy)
    for path in (copy / "3" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:10])
    for read in (lambda: train.load_params(copy), lambda: train.Checkpoints(copy).restore(state_of(module))):
        with pytest.raises(InputError, match=r"checkpoint .*/3 does not fit"):
            read()
