"""The decoder under every option: packing, padding, caching, scan, remat; each agreement with a planted error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models
from fmzoo.errors import InputError

TINY = models.DecoderConfig(
    vocab_size=40,
    d_model=24,
    num_layers=3,
    context_length=32,
    attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=6),
    mlp=models.MlpConfig(d_ff=40),
    dtype="float64",
)
LOCAL = {"pattern": ("local", "global"), "attention__window": 3}
OPTIONS = {  # options that do not meet share a row
    "plain": {},
    "transposed inputs": {"transposed_inputs": True, "attention__qkv_bias": True},
    "multi-head, qk norm by head, linear rope": {
        "attention__num_kv_heads": 4, "attention__qk_norm": "head", "rope__scaling": "linear", "rope__factor": 4.0,
    },
    "multi-query, qk norm over all, llama3 rope": {
        "attention__num_kv_heads": 1, "attention__qk_norm": "all", "rope__scaling": "llama3", "rope__factor": 8.0,
        "rope__original_context": 16,
    },
    "layer norm with biases, of embeddings too, sinusoids from 2": {
        "norm__kind": "layer", "norm__bias": True, "attention__qkv_bias": True, "attention__out_bias": True,
        "mlp__bias": True, "mlp__gated": False, "mlp__activation": "gelu_tanh", "head_bias": True, "embed_norm": True,
        "position": "sinusoidal", "position_offset": 2,
    },
    "post norm, yarn": {
        "norm__placement": "post", "rope__scaling": "yarn", "rope__factor": 4.0, "rope__original_context": 16,
    },
    "both norms, unit offset": {"norm__placement": "both", "norm__unit_offset": True, "scaled_embedding": True},
    "learned positions from 2, narrow embeddings, norms after sums": {
        "position": "learned", "position_offset": 2, "tied_head": True, "embed_dim": 5, "norm__placement": "residual",
        "final_norm": False,
    },
    "alibi": {"position": "alibi"},
    "alibi in a window": {"position": "alibi", "pattern": ("local",), "attention__window": 4},
    "no positions, parallel": {"position": "none", "block": "parallel"},
    "partial interleaved rope": {"rope__fraction": 0.67, "rope__interleaved": True},
    "soft caps, longrope, layers that do not turn": {
        "attention__logit_softcap": 2.0, "logit_softcap": 3.0, "attention__scale": 0.7, "pattern": ("global", "nope"),
        "rope": models.RopeConfig(scaling="longrope", factor=2.0, long_factors=(1.5, 3.0, 6.0)),
    },
    "windows": LOCAL,
    "windows only": {"pattern": ("local",), "attention__window": 3},
    "local rope, prefix and tail": {
        **LOCAL, "prefix": ("global",), "num_layers": 4, "local_rope": models.RopeConfig(theta=100.0),
    },
    "experts, latent attention in windows": {
        "pattern": ("local",), "num_layers": 2, "rope__interleaved": True,
        "experts": models.ExpertsConfig(16, 2, 10, renormalised=False, scale=1.5),
        "attention": models.AttentionConfig(
            4, 4, 10, window=3, latent=models.LatentConfig(kv_rank=8, rope_dim=4, value_dim=5)
        ),
    },
    "shared experts in groups after a dense layer, latent queries": {
        "attention": models.AttentionConfig(
            4, 4, 10, qkv_bias=True, latent=models.LatentConfig(kv_rank=8, q_rank=7, rope_dim=4, value_dim=5)
        ),
        "prefix": ("global",), "num_layers": 2,
        "experts": models.ExpertsConfig(
            6, 2, 10, 1, scores="sigmoid", groups=3, top_groups=2, group_score="top2", selection_bias=True,
            shared_d_ff=14, shared_gate=True, form="dense",
        ),
    },
    "parallel, one norm": {"block": "parallel_shared_norm", "mlp__gated": False, "mlp__activation": "gelu"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _x64(x64):
    return


def make(name, **more):
    """A decoder with weights large enough that every part matters."""
    module = models.Decoder(models.replace(TINY, **OPTIONS[name], **more))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return module, structure.unflatten([jnp.asarray(rng.normal(size=s.shape) * 0.5 + 0.1) for s in leaves])


@functools.cache
def runner(name):
    """A decoder, its parameters, and its pass, compiled once for each shape."""
    module, params = make(name)
    return module, params, jax.jit(lambda params, x, **more: module.apply({"params": params}, x, **more))


def tokens(batch=2, length=9, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 40, (batch, length)), jnp.int32)


@pytest.mark.parametrize("name", OPTIONS)
def test_cached_equals_uncached(name):
    """Token by token, in chunks, and in chunks that overrun a window: all give the logits of one pass."""
    (module, params, run), x = runner(name), tokens(length=9)
    whole = run(params, x)
    for cuts in ([0, 5, 6, 7, 9], [0, 1, 6, 8, 9]):
        cache, pieces = models.init_cache(module.config, 2, 12), []
        for a, b in zip(cuts, cuts[1:], strict=False):
            logits, cache = run(params, x[:, a:b], cache=cache)
            pieces.append(logits)
        assert_close(jnp.concatenate(pieces, 1), whole)
    listed = models.init_cache(module.config, 2, 12, stacked=False)
    assert_close(run(models.unstack(params), x, cache=listed)[0], whole)


@pytest.mark.parametrize("name", OPTIONS)
def test_padding_on_either_side_changes_nothing(name):
    (module, params, run), x, more = runner(name), tokens(length=7), tokens(length=2, seed=1)
    whole = run(params, jnp.concatenate([x, more], 1))
    for left, right in ((3, 0), (0, 3)):
        inputs = jnp.pad(x, ((0, 0), (left, right)), constant_values=7)
        segments = jnp.pad(jnp.ones_like(x), ((0, 0), (left, right)))
        assert_close(run(params, inputs, segment_ids=segments)[:, left : left + 7], whole[:, :7])
        cache = models.init_cache(module.config, 2, 12)
        logits, cache = run(params, inputs, segment_ids=segments, cache=cache)
        assert_close(logits[:, left : left + 7], whole[:, :7])
        assert_close(run(params, more, cache=cache)[0], whole[:, 7:])


@pytest.mark.parametrize("name", OPTIONS)
def test_packed_documents_are_alone(name):
    """Log-probabilities and gradients of packed documents are those of each document in a row of its own."""
    module, params = make(name)
    documents = [tokens(1, n, seed=n)[0] for n in (5, 3, 4)]
    orders = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    packed = jnp.stack([jnp.concatenate([documents[i] for i in order]) for order in orders])
    packed_ids = jnp.stack([jnp.concatenate([jnp.full_like(documents[i], i + 1) for i in order]) for order in orders])
    rows = jnp.stack([jnp.pad(d, (0, 12 - d.size)) for d in documents])
    row_ids = jnp.stack([jnp.pad(jnp.ones_like(d), (0, 12 - d.size)) for d in documents])

    @jax.jit
    def run(params, x, segments):
        def total(params):
            found = jax.nn.log_softmax(module.apply({"params": params}, x, segment_ids=segments))
            return jnp.sum(found[..., 3] * (segments > 0)), found

        grads, found = jax.grad(total, has_aux=True)(params)
        return found, grads

    (together, grads), (alone, alone_grads) = run(params, packed, packed_ids), run(params, rows, row_ids)
    for row, order in enumerate(orders):
        assert_close(together[row], jnp.concatenate([alone[i, : documents[i].size] for i in order]))
    jax.tree.map(lambda a, b: assert_close(a, 3 * b), grads, alone_grads)
    leaking, _ = run(params, packed, jnp.ones_like(packed))
    if module.config.attention.window is None:  # a planted leak is seen; in a short window there may be none to see
        assert np.abs(leaking - together)[0, 5:].max() > 1e-3


@functools.cache
def dropped_out(name, **more):
    """A loss and its gradient with dropout on."""
    x, keys = tokens(), jax.random.split(jax.random.key(1), 2)
    module, params = make(name, dropout=0.3, attention__dropout=0.2, **more)
    loss = lambda p: jnp.sum(jax.nn.log_softmax(module.apply({"params": p}, x, dropout_keys=keys))[..., 0])  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("name", ["plain", "local rope, prefix and tail", "alibi"])
@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scan_unrolled_and_remat_agree(name, remat):
    (value, grads), (other, other_grads) = dropped_out(name), dropped_out(name, layers="unrolled", remat=remat)
    assert_close(value, other)
    jax.tree.map(assert_close, grads, other_grads)


def test_dropout_belongs_to_the_row():
    module, params = make("plain", dropout=0.5, attention__dropout=0.5)
    x, keys = tokens(4), jax.random.split(jax.random.key(1), 4)
    run = jax.jit(lambda x, keys: module.apply({"params": params}, x, dropout_keys=keys))
    whole, half = run(x, keys), run(x[2:], keys[2:])
    assert_close(half, whole[2:])
    assert np.abs(run(x[2:], keys[:2]) - half).max() > 0.1
    assert np.abs(run(x, None) - whole).max() > 0.1


def test_each_window_sees_exactly_its_width():
    module, params = make("windows only", num_layers=1)
    x = tokens(1, 8)
    run = jax.jit(lambda x: module.apply({"params": params}, x))
    base, changed = run(x), run(x.at[0, 2].set((x[0, 2] + 1) % 40))
    moved = np.abs(changed - base).max(axis=(0, 2)) > 1e-9
    assert moved.tolist() == [False, False, True, True, True, False, False, False]


def test_features_unembedded_are_the_logits():
    module, params = make("soft caps, longrope, layers that do not turn")
    hidden, reports, cache = module.apply({"params": params}, tokens(), method="features")
    assert hidden.shape == (2, 9, 24)
    assert cache is None
    assert not jax.tree.leaves(reports)
    logits = module.apply({"params": params}, hidden, method="unembed")
    assert_close(logits, module.apply({"params": params}, tokens()))


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    with jax.enable_x64(False):
        module = models.Decoder(models.replace(TINY, dtype="bfloat16"))
        params = jax.jit(module.init)(jax.random.key(0), tokens())["params"]
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
        wide = models.Decoder(models.replace(TINY, dtype="float32"))

        @jax.jit
        def run(params):
            hidden, _, _ = module.apply({"params": params}, tokens(), method="features")
            return hidden, *(m.apply({"params": params}, tokens()) for m in (module, wide))

        hidden, logits, exact = run(params)
        assert (hidden.dtype.name, logits.dtype.name) == ("bfloat16", "float32")
        assert 1e-6 < np.abs(logits - exact).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attention__num_kv_heads": 3}, "num_heads 4 is not divisible by num_kv_heads 3"),
        ({"attention__window": 0}, "window is 0"),
        ({"pattern": ("local",)}, "attention.window is None"),
        ({"pattern": ("lokal",)}, "lokal"),
        ({"prefix": ("global",) * 4}, "prefix has 4 layers"),
        ({"attention__head_dim": 5}, "head_dim 5 rotates 5"),
        ({"local_rope": models.RopeConfig(fraction=0.5)}, "by local_rope; an even number is needed"),
        ({"rope__scaling": "yarn", "rope__theta": 1.0}, "rope theta is 1.0; above 1"),
        ({"rope__beta_slow": 0.0}, "beta_slow is 0.0"),
        (
            {"rope__scaling": "llama3", "rope__high_frequency_factor": 1.0},
            "high_frequency_factor is 1.0; a number above",
        ),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"remat": "some"}, "one of none, full, dots"),
        ({"position": "alibi", "attention__implementation": "splash"}, "needs the attention implementation xla"),
        ({"attention__implementation": "cudnn", "attention__logit_softcap": 5.0}, "logit_softcap 5.0 needs"),
        ({"num_layer": 3}, "num_layers"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        models.replace(TINY, **changes)


def test_shapes_are_checked_at_the_edge():
    module, params = make("plain")
    with pytest.raises(InputError, match=r"segment_ids has shape \(2, 8\)"):
        module.apply({"params": params}, tokens(), segment_ids=jnp.ones((2, 8), jnp.int32))
    broken = {**params, "embed": params["embed"][:, :-1]}
    with pytest.raises(InputError, match="parameter embed has shape"):
        module.apply({"params": broken}, tokens())


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, float(np.abs(b).max())))
