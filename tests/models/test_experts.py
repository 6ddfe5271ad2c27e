"""Routers by their definitions, the forms of a mixture against each other, latent attention in its two forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.models.attention import Mask
from fmzoo.models.experts import mix_dense, mix_gathered, mix_grouped, route
from fmzoo.models.latent_attention import absorbed, absorbing_pays, expanded

ROUTERS = {
    "softmax": models.ExpertsConfig(8, 3),
    "softmax as it is": models.ExpertsConfig(8, 3, renormalised=False, scale=2.5),
    "best groups by their largest": models.ExpertsConfig(8, 3, renormalised=False, groups=4, top_groups=2),
    "sigmoid": models.ExpertsConfig(8, 3, scores="sigmoid", scale=2.5, selection_bias=True),
    "best groups by their two largest": models.ExpertsConfig(
        8, 3, scores="sigmoid", groups=4, top_groups=2, group_score="top2", selection_bias=True
    ),
}


@pytest.fixture(autouse=True)
def _x64(x64):
    return


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def random_params(module):
    """Parameters of a decoder, nothing compiled."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: normal(*leaf.shape) * 0.5 + 0.1, shapes)


def choose(config, logits, bias):
    """The experts and weights of one token, by the words of the papers."""
    scores = np.exp(logits) / np.exp(logits).sum() if config.scores == "softmax" else 1 / (1 + np.exp(-logits))
    choice, size = scores + bias, len(logits) // config.groups
    groups = [sorted(choice[g * size : (g + 1) * size])[::-1] for g in range(config.groups)]
    rank = [g[0] if config.group_score == "max" else g[0] + g[1] for g in groups]
    best = np.argsort(rank)[::-1][: config.top_groups]
    allowed = [i for i in range(len(logits)) if i // size in best]
    chosen = sorted(allowed, key=lambda i: -choice[i])[: config.top_k]
    weights = scores[chosen] / (scores[chosen].sum() if config.renormalised else 1)
    return chosen, weights * config.scale


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_is_its_definition(name):
    config, logits = ROUTERS[name], normal(50, 8) * 2
    bias = normal(8, seed=1) * 0.3 if config.selection_bias else None
    routing = route(config, logits, bias)
    for i in range(50):
        chosen, weights = choose(config, np.asarray(logits[i]), 0 if bias is None else np.asarray(bias))
        assert routing.experts[i].tolist() == chosen
        np.testing.assert_allclose(routing.weights[i], weights, rtol=1e-12)
    np.testing.assert_allclose(routing.probabilities.sum(-1), 1, rtol=1e-12)
    if bias is not None:  # it decides who is chosen, and nothing else
        assert (route(config, logits, None).experts != routing.experts).any()
        assert not jax.grad(lambda bias: route(config, logits, bias).weights.sum())(bias).any()


@pytest.mark.parametrize("chosen", ["by many", "by one"])
@pytest.mark.parametrize("kind", ["array", "lora"])
def test_forms_of_a_mixture_agree_in_value_and_gradient(kind, chosen):
    """Even where all tokens choose the same experts, none is dropped."""
    x, logits = normal(14, 6), normal(14, 5, seed=1)
    logits = logits + (jnp.array([9.0, 8, 0, 0, 0]) if chosen == "by one" else 0)
    shapes = {"gate": (5, 6, 7), "up": (5, 6, 7), "down": (5, 7, 6)}
    kernels = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    if kind == "lora":
        low = {name: (normal(5, n, 2, seed=7), normal(5, 2, f, seed=8)) for name, (_, n, f) in shapes.items()}
        kernels = {name: models.Lora(kernels[name], *low[name], 0.5) for name in kernels}

    def run(form):
        def total(x, logits, kernels):
            return jnp.sum(form(x, route(models.ExpertsConfig(5, 2), logits), kernels, "silu") ** 2)

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(x, logits, kernels)

    dense = run(mix_dense)
    for form in (mix_grouped, mix_gathered) if chosen == "by many" else (mix_grouped,):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), dense, run(form))
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(dense[1][:2]))


def test_what_a_router_reports_leaves_pads_out():
    config = models.DecoderConfig(
        vocab_size=40, d_model=12, num_layers=2, prefix=("global",), mlp=models.MlpConfig(d_ff=8, gated=False),
        attention=models.AttentionConfig(2, 2, 6), experts=models.ExpertsConfig(6, 2, 8, dense_layers=1),
        position="none", layers="unrolled", dtype="float64",
    )  # fmt: skip
    module, x = models.Decoder(config), jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 7)), jnp.int32)
    params = random_params(module)

    @jax.jit
    def reports(x, segments):
        return module.apply({"params": params}, x, segment_ids=segments, method="features")[1]

    plain, padded = reports(x, jnp.ones_like(x)), jnp.pad(x, ((0, 0), (2, 3)), constant_values=5)
    with_pads = reports(padded, jnp.pad(jnp.ones_like(x), ((0, 0), (2, 3))))
    assert plain["prefix"]["0"] == {}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), with_pads, plain)
    found = plain["period"]["0"]
    assert found["assigned"].shape == found["probability"].shape == (1, 2, 6)
    np.testing.assert_array_equal(found["assigned"].sum(-1), 14)
    np.testing.assert_allclose(found["probability"].sum(-1), 7, rtol=1e-12)
    counted = reports(padded, jnp.ones_like(padded))["period"]["0"]
    np.testing.assert_array_equal(counted["assigned"].sum(-1), 24)  # were the pads tokens


LATENT = models.AttentionConfig(3, 3, 10, latent=models.LatentConfig(kv_rank=9, rope_dim=4, value_dim=5))


@pytest.mark.parametrize("node", [False, True])
def test_latents_are_attended_to_in_either_form(node):
    q, latents, up = normal(2, 4, 3, 10), normal(2, 7, 13, seed=1), normal(9, 3 * 11, seed=2)
    up = models.Lora(up, normal(9, 2, seed=3), normal(2, 33, seed=4), 0.5) if node else up
    positions = jnp.arange(7)[None]
    seen = Mask(positions[:, 3:], positions).dense()
    both = [form(LATENT, q, latents, up, seen, scale=0.3) for form in (expanded, absorbed)]
    assert both[0].shape == (2, 4, 3, 5)
    np.testing.assert_allclose(*both, rtol=1e-10, atol=1e-10)


def test_few_queries_are_absorbed_and_many_are_not():
    third = models.AttentionConfig(128, 128, 192, latent=models.LatentConfig())
    assert absorbing_pays(third, 1, 4096)
    assert absorbing_pays(third, 8, 4096)
    assert not absorbing_pays(third, 4096, 4096)


def test_a_latent_cache_is_narrow():
    """DeepSeek-V3 keeps 576 numbers a token and layer where 128 heads would keep 40,960."""
    config = models.DecoderConfig(
        num_layers=2, attention=models.AttentionConfig(128, 128, 192, latent=models.LatentConfig())
    )
    cache = jax.eval_shape(lambda: models.init_cache(config, 3, 20))
    assert cache["period"]["0"]["latent"].shape == (2, 3, 20, 576)
    assert models.cache_bytes(config, 3, 20) == 3 * 20 * (2 * 576 * 4 + 4)


def test_experts_are_split_over_an_axis_of_their_own():
    from jax.sharding import PartitionSpec as P

    from fmzoo import parallel

    config = models.DecoderConfig(
        vocab_size=32, d_model=16, num_layers=3, prefix=("global",), mlp=models.MlpConfig(d_ff=8),
        attention=dataclasses.replace(LATENT, num_heads=4, num_kv_heads=4),
        experts=models.ExpertsConfig(4, 2, 8, 1, selection_bias=True, shared_d_ff=8, shared_gate=True),
    )  # fmt: skip
    shapes = jax.eval_shape(models.Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    mesh = parallel.mesh("tensor=2,expert=4")
    found = parallel.specs(models.DECODER_RULES, shapes, mesh)["period"]["0"]
    assert found["experts"]["up"]["kernel"] == P(None, "expert", None, "tensor")
    assert found["experts"]["shared"]["down"]["kernel"] == P(None, "tensor", None)
    assert found["attention"]["key_value_up"]["kernel"] == P(None, None, "tensor")
    adapters = jax.eval_shape(
        lambda: models.init_lora(jax.random.key(0), shapes_to_zeros(shapes), 2, "experts/(up|down)")
    )
    joined = models.join(shapes, adapters)
    lora = parallel.specs(models.DECODER_RULES, joined, mesh)["period"]["0"]["experts"]["down"]["kernel"]
    assert (lora.kernel, lora.a) == (P(None, "expert", "tensor", None), P(None, "expert", "tensor", None))
    models.check_mesh(config, 2, 4)
    with pytest.raises(InputError, match="mesh axis expert=3 does not divide num_experts=4"):
        models.check_mesh(config, 1, 3)


def shapes_to_zeros(shapes):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


DEEPSEEK = models.DecoderConfig(
    vocab_size=40, d_model=16, num_layers=3, prefix=("global",), mlp=models.MlpConfig(d_ff=9), dtype="float64",
    attention=dataclasses.replace(LATENT, latent=dataclasses.replace(LATENT.latent, q_rank=7)),
    experts=models.ExpertsConfig(6, 2, 8, 1, shared_d_ff=10, shared_gate=True),
)  # fmt: skip


def test_kernels_that_lie_transposed_give_the_same_decoding():
    module, x = models.Decoder(models.replace(DEEPSEEK, num_layers=2)), jnp.asarray([[3]], jnp.int32)
    params = random_params(module)
    turned = models.transpose_kernels(models.join_projections(models.unstack(params)))
    cache = models.init_cache(module.config, 1, 8, stacked=False)
    run = jax.jit(lambda params, x, cache=None: module.apply({"params": params}, x, cache=cache))
    np.testing.assert_allclose(run(turned, x, cache)[0], run(params, x), rtol=1e-9, atol=1e-9)


def test_a_token_is_multiplied_by_its_experts_alone():
    shapes = jax.eval_shape(models.Decoder(DEEPSEEK).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    leaves = {"/".join(k.key for k in keys): leaf for keys, leaf in jax.tree.leaves_with_path(shapes)}
    kernels = {path: leaf.size for path, leaf in leaves.items() if path.endswith("kernel") or path == "head"}
    chosen = {path: leaf.size for path, leaf in leaves.items() if leaf.ndim == 4}
    assert len(chosen) == 3
    idle = sum(chosen.values()) * 4 // 6
    assert models.matmul_parameters(DEEPSEEK) == sum(kernels.values()) - idle
    assert models.active_parameter_count(DEEPSEEK) == sum(leaf.size for leaf in leaves.values()) - idle
    attention = models.flops_per_token(DEEPSEEK, 9, training=False) - 2 * models.matmul_parameters(DEEPSEEK)
    assert attention == 3 * 2 * 3 * (10 + 5) * 5  # layers, multiply and add, heads, key and value, keys on average


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: models.ExpertsConfig(8, 9), "top_k is 9 of 1 of 1 groups of 8 experts"),
        (lambda: models.ExpertsConfig(8, 3, groups=4), "top_k is 3 of 1 of 4 groups of 2 experts"),
        (lambda: models.ExpertsConfig(8, groups=3), "num_experts 8 is not divisible by groups 3"),
        (lambda: models.ExpertsConfig(8, 2, groups=8, top_groups=2, group_score="top2"), "groups of 2 experts or more"),
        (lambda: models.ExpertsConfig(shared_gate=True), "shared_gate needs shared_d_ff"),
        (lambda: models.ExpertsConfig(form="sparse"), "one of grouped, dense is needed"),
        (lambda: models.DecoderConfig(experts=models.ExpertsConfig(dense_layers=1)), "prefix has 0 layers"),
        (lambda: models.LatentConfig(rope_dim=5), "rope_dim is 5; an even number"),
        (lambda: models.AttentionConfig(4, 2, 10, latent=models.LatentConfig(rope_dim=4)), "num_kv_heads equal"),
        (lambda: models.AttentionConfig(4, 4, 10, latent=models.LatentConfig(rope_dim=10)), "is not below head_dim 10"),
    ],
)
def test_a_config_that_cannot_be_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
