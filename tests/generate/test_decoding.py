import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fmzoo import models
from fmzoo.errors import InputError
from fmzoo.generate import decoding
from fmzoo.generate.decoding import decode
from fmzoo.generate.sampling import SamplingConfig, log_prob, process

BASE = models.DecoderConfig(
    vocab_size=61,
    d_model=32,
    num_layers=2,
    context_length=64,
    attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8),
    mlp=models.MlpConfig(d_ff=48),
    dtype="float64",
)
LAYER = models.NormConfig(kind="layer", bias=True)
CONFIGS = {
    "gqa": BASE,
    "window": models.replace(BASE, pattern=("local", "global"), attention__window=5),
    "softcap": models.replace(BASE, attention__logit_softcap=2.0, logit_softcap=3.0, scaled_embedding=True),
    "alibi": models.replace(BASE, position="alibi", attention__num_kv_heads=4),
    "learned": models.replace(BASE, position="learned", norm=LAYER, mlp__gated=False, tied_head=True),
    "mqa": models.replace(BASE, attention__num_kv_heads=1, block="parallel", attention__qk_norm="head"),
}
LENGTHS = (3, 9, 1, 6)
WARM = SamplingConfig(temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.3)


@functools.cache
def model(config):
    """A module and random parameters large enough for sharp distributions."""
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return module, jax.tree.map(lambda a: jnp.asarray(1.5 * a, config.dtype), params)


@functools.cache
def forward(config):
    """Logits by a full pass, without a cache."""
    module, params = model(config)
    return jax.jit(lambda tokens: module.apply({"params": params}, tokens))


def prompts(side="right", width=10):
    rng = np.random.default_rng(0)
    tokens, segments = np.zeros((2, len(LENGTHS), width), np.int32)
    for row, length in enumerate(LENGTHS):
        start = 0 if side == "right" else width - length
        tokens[row, start : start + length] = rng.integers(0, BASE.vocab_size, length)
        segments[row, start : start + length] = 1
    return tokens, segments


def rows():
    tokens, _ = prompts()
    return [tokens[i, :n].tolist() for i, n in enumerate(LENGTHS)]


def fill(rows, width=21):
    return jnp.array([row + [0] * (width - len(row)) for row in rows])


KEYS = jax.random.split(jax.random.key(5), len(LENGTHS))


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_is_the_argmax_of_full_passes(x64, name):
    module, params = model(CONFIGS[name])
    out = decode(module, params, *prompts(), KEYS, max_new_tokens=12)
    expected = rows()
    for _ in range(12):
        best = np.argmax(forward(CONFIGS[name])(fill(expected)), axis=-1)
        expected = [[*row, int(best[i, len(row) - 1])] for i, row in enumerate(expected)]
    answers = [row[-12:] for row in expected]
    assert np.asarray(out.tokens).tolist() == answers
    assert len(set(sum(answers, []))) > 12  # else the model is too dull to show an error
    assert np.asarray(out.length).tolist() == [12] * len(LENGTHS)


@pytest.mark.parametrize("sampling", [decoding.GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("name", ["window", "learned"])
def test_a_prompt_gets_its_own_answer_in_any_batch(x64, name, sampling):
    module, params = model(CONFIGS[name])
    options = {"max_new_tokens": 12, "sampling": sampling}
    right = decode(module, params, *prompts("right"), KEYS, **options)
    left = decode(module, params, *prompts("left"), KEYS, **options)
    chex.assert_trees_all_close(right, left, rtol=0, atol=1e-9)
    for i, row in list(enumerate(rows()))[:2]:
        alone = decode(module, params, jnp.array([row]), None, KEYS[i : i + 1], **options)
        chex.assert_trees_all_close(alone, jax.tree.map(lambda a, i=i: a[i : i + 1], right), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "sampling"), [("window", WARM), ("softcap", WARM), ("learned", WARM), ("gqa", SamplingConfig())]
)
def test_log_probs_are_those_of_a_full_pass(x64, name, sampling):
    module, params = model(CONFIGS[name])
    out = decode(module, params, *prompts(), KEYS, max_new_tokens=12, sampling=sampling)
    whole = [[*row, *answer] for row, answer in zip(rows(), out.tokens.tolist(), strict=True)]
    for i, logits in enumerate(forward(CONFIGS[name])(fill(whole))):
        answer = np.asarray(out.tokens[i])
        logits = logits[LENGTHS[i] - 1 : LENGTHS[i] + 11]
        np.testing.assert_allclose(out.model_log_probs[i], log_prob(logits, answer), rtol=0, atol=1e-9)
        seen = np.zeros(logits.shape, bool)
        for t in range(len(answer)):
            seen[t, whole[i][: LENGTHS[i] + t]] = True
        drawn_from = process(logits, jnp.asarray(seen), **sampling.active())
        np.testing.assert_allclose(out.log_probs[i], log_prob(drawn_from, answer), rtol=0, atol=1e-9)
    if sampling == SamplingConfig():
        np.testing.assert_array_equal(out.log_probs, out.model_log_probs)


def test_a_stop_id_ends_its_row_alone(x64):
    module, params = model(BASE)
    free = decode(module, params, *prompts(), KEYS, max_new_tokens=12, sampling=WARM)
    stop = int(free.tokens[1, 4])
    out = decode(module, params, *prompts(), KEYS, max_new_tokens=12, sampling=WARM, stop_ids=[stop, 60], pad_id=7)
    for i in range(len(LENGTHS)):
        whole = np.asarray(free.tokens[i])
        ends = np.flatnonzero(np.isin(whole, [stop, 60]))
        length = ends[0] + 1 if len(ends) else 12
        assert (int(out.length[i]), bool(out.ended[i])) == (length, bool(len(ends)))
        np.testing.assert_array_equal(out.tokens[i, :length], whole[:length])
        assert (np.asarray(out.tokens[i, length:]) == 7).all()
        for name in ("log_probs", "model_log_probs"):
            np.testing.assert_array_equal(getattr(out, name)[i, length:], 0)
            np.testing.assert_array_equal(getattr(out, name)[i, :length], getattr(free, name)[i, :length])


def test_the_loop_ends_when_all_rows_have_ended(x64):
    module, params = model(BASE)
    tokens, segment_ids = prompts()
    rules = decoding.make_rules(KEYS, WARM, range(BASE.vocab_size), 0)
    params = decoding.for_decoding(params)
    state = decoding.begin(module, params, rules, tokens, segment_ids, capacity=30, slots=40)
    state = decoding.advance(module, params, rules, state, jnp.int32(30))
    assert int(state.step) == 1


def test_in_pieces_it_is_the_same(x64):
    module, params = model(CONFIGS["window"])
    whole = decode(module, params, *prompts(), KEYS, max_new_tokens=12, sampling=WARM)
    rules, params = decoding.make_rules(KEYS, WARM, (), 0), decoding.for_decoding(params)
    state = decoding.begin(module, params, rules, *prompts(), capacity=12, slots=22)
    for until in (1, 2, 7, 12):
        state = decoding.advance(module, params, rules, state, jnp.int32(until))
        assert int(state.step) == until
    chex.assert_trees_all_close(state.output, whole, rtol=0, atol=1e-9)


def test_other_numbers_compile_nothing_anew():
    module, params = model(models.replace(BASE, dtype="float32"))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(tokens, segment_ids, keys, sampling):
        rules = decoding.Rules(keys, sampling, jnp.array([3]), jnp.int32(0))
        return decoding._decode(module, params, rules, tokens, segment_ids, capacity=4, slots=14)

    params = decoding.for_decoding(params)
    for seed, sampling in enumerate([SamplingConfig(0.5, 3, 0.9), SamplingConfig(1.5, 7, 0.5)]):
        run(*prompts(), jax.random.split(jax.random.key(seed), len(LENGTHS)), sampling.active())
    before = decoding._decode._cache_size()
    for temperature in (0.3, 0.6, 0.9):
        sampling = SamplingConfig(temperature=temperature, top_k=int(10 * temperature))
        decode(module, params, *prompts(), KEYS, max_new_tokens=4, sampling=sampling, stop_ids=[5])
    assert decoding._decode._cache_size() == before + 1


@pytest.mark.parametrize("sampling", [decoding.GREEDY, WARM], ids=["greedy", "warm"])
def test_a_mesh_of_eight_gives_the_answers_of_one_device(x64, sampling):
    config = models.replace(CONFIGS["window"], vocab_size=64)
    module, params = model(config)
    tokens, segment_ids = (np.concatenate([a, a]) for a in prompts())
    keys = jax.random.split(jax.random.key(6), 8)
    one = decode(module, params, tokens, segment_ids, keys, max_new_tokens=12, sampling=sampling)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def shard(leaf):
        return P(*[None] * (leaf.ndim - 1), "model") if leaf.ndim > 1 else P()

    sharded = jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, shard(a))), params)
    inputs = jax.device_put((tokens, segment_ids, keys), NamedSharding(mesh, P("data")))
    many = decode(module, sharded, *inputs, max_new_tokens=12, sampling=sampling)
    assert len(many.tokens.sharding.device_set) == 8
    chex.assert_trees_all_close(many, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_new_tokens": 55}, "10 tokens and max_new_tokens=55 make 65; at most context_length=64"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"keys": KEYS[:2]}, "keys has shape"),
        ({"segment_ids": np.ones((4, 9), np.int32)}, "segment_ids has shape"),
        ({"tokens": np.ones(4, np.int32)}, "tokens has shape"),
    ],
)
def test_refuses(changes, sentence):
    tokens, segment_ids = prompts()
    arguments = {"tokens": tokens, "segment_ids": segment_ids, "keys": KEYS, "max_new_tokens": 4, **changes}
    with pytest.raises(InputError, match=sentence):
        decode(models.Decoder(BASE), {}, **arguments)


def test_joined_projections_change_nothing(x64):
    """A copy made for decoding gives the answers of the parameters that were trained, with biases and without."""
    config = models.replace(
        CONFIGS["window"], num_layers=3, prefix=("global",), attention__qkv_bias=True, mlp__bias=True
    )
    module, params = model(config)
    ready = decoding.for_decoding(params)
    assert set(ready["period"]["0"][0]["attention"]) == {"query_key_value", "out"}
    assert set(ready["prefix"]["0"]["mlp"]) == {"gate_up", "down"}
    assert decoding.for_decoding(ready) is ready
    tokens = fill(rows())
    logits = jax.jit(lambda params: module.apply({"params": params}, tokens))(ready)
    np.testing.assert_allclose(logits, forward(config)(tokens), rtol=0, atol=1e-9)
    options = {"max_new_tokens": 6, "sampling": WARM}
    once, inside = (
        decode(module, ready, *prompts(), KEYS, **options),
        jax.jit(lambda params: decode(module, params, *prompts(), KEYS, **options))(params),
    )
    chex.assert_trees_all_close(once, inside, rtol=0, atol=1e-9)


def test_transposed_kernels_give_the_products_of_plain_ones(x64):
    """Few rows multiply from the left, many from the right; the head is in float32 or better."""
    x, kernel = np.random.default_rng(0).normal(size=(3, 50, 24)), np.random.default_rng(1).normal(size=(24, 40))
    node = models.transpose_kernels({"kernel": jnp.asarray(kernel)})["kernel"]
    for rows in (x[:, :1], x[0], x):
        np.testing.assert_allclose(models.project(jnp.asarray(rows), node), rows @ kernel, rtol=0, atol=1e-12)
    wide = models.project(jnp.asarray(x[0], jnp.bfloat16), node, jnp.float32)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, models.project(jnp.asarray(x[0], jnp.bfloat16), jnp.asarray(kernel), jnp.float32))


def test_plain_mlps_and_nodes_are_left_alone(x64):
    config = models.replace(BASE, mlp__gated=False)
    module, params = model(config)
    params = models.unstack(params)
    query = params["period"]["0"][0]["attention"]["query"]
    a, b = jnp.ones((32, 2)) / 9, jnp.ones((2, 32)) / 9
    query = {"kernel": models.Lora(query["kernel"], a, b)}
    params["period"]["0"][0]["attention"] = {**params["period"]["0"][0]["attention"], "query": query}
    ready = models.join_projections(params)
    assert set(ready["period"]["0"][0]["attention"]) == {"query", "key", "value", "out"}
    assert set(ready["period"]["0"][1]["attention"]) == {"query_key_value", "out"}
    assert set(ready["period"]["0"][0]["mlp"]) == {"up", "down"}
    run = jax.jit(lambda params: module.apply({"params": params}, fill(rows())))
    np.testing.assert_allclose(run(ready), run(params), rtol=0, atol=1e-9)
