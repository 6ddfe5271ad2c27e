"""The encoders of text that diffusion conditions on: their sizes, who sees whom, and where a text is pooled."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fmzoo import parallel
from fmzoo.errors import InputError
from fmzoo.models import clip_text, init_lora, join, t5
from fmzoo.models.clip_text import ClipText, ClipTextConfig
from fmzoo.models.t5 import T5Config, T5Encoder

CLIP = ClipTextConfig(vocab_size=20, d_model=12, num_layers=3, num_heads=2, d_ff=20, context_length=9, projection=5)
T5 = T5Config(vocab_size=20, d_model=12, num_layers=2, num_heads=2, head_dim=5, d_ff=20, num_buckets=8, max_distance=12)
TOKENS = jnp.asarray([[17, 3, 5, 18, 18, 18], [17, 2, 7, 4, 1, 18]], jnp.int32)


def shapes(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]


def size(module):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(module)))


@functools.cache
def params(module):
    return jax.jit(module.init)(jax.random.key(1), TOKENS)


@functools.cache
def runner(module):
    return jax.jit(module.apply)


def encode(module, *args):
    return runner(module)(params(module), *args)


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (ClipText(clip_text.CLIP_L14), 123_060_480),
        (ClipText(clip_text.OPENCLIP_H14), 340_387_840),
        (ClipText(clip_text.OPENCLIP_BIGG14), 694_659_840),
        (T5Encoder(t5.T5_XXL), 4_762_310_656),
    ],
    ids=["clip-l14", "openclip-h14-of-23-layers", "openclip-bigg14", "t5-xxl"],
)
def test_full_sizes_have_the_published_number_of_parameters(module, count):
    assert size(module) == count


@pytest.mark.parametrize("module", [ClipText(CLIP), T5Encoder(T5)], ids=["clip", "t5"])
def test_every_parameter_fits_one_sharding_rule_also_with_adapters(module):
    rules = clip_text.CLIP_TEXT_RULES if isinstance(module, ClipText) else t5.T5_RULES
    mesh = parallel.mesh({"fsdp": 4, "tensor": 2})
    found = parallel.specs(rules, params(module)["params"], mesh)
    assert found["layers"]["mlp"]["up"]["kernel"] == PartitionSpec(None, "fsdp", "tensor")
    base = params(module)["params"]
    parallel.specs(rules, join(base, init_lora(jax.random.key(0), base, 2)), mesh)


def test_an_adapter_of_zeros_changes_nothing_and_another_does():
    module, base = ClipText(CLIP), params(ClipText(CLIP))["params"]
    adapters = init_lora(jax.random.key(0), base, 2)
    plain = encode(module, TOKENS)["pooled"]
    with_zeros = module.apply({"params": join(base, adapters)}, TOKENS)["pooled"]
    np.testing.assert_allclose(with_zeros, plain, atol=1e-5)
    moved = jax.tree.map(lambda leaf: leaf + 0.3, adapters)
    assert np.abs(module.apply({"params": join(base, moved)}, TOKENS)["pooled"] - plain).max() > 0.01


def test_clip_sees_no_later_token():
    module = ClipText(CLIP)
    before, after = encode(module, TOKENS), encode(module, TOKENS.at[:, 4].set(9))
    for name in ("last", "penultimate"):
        change = np.abs(np.asarray(before[name] - after[name])).max((0, 2))
        assert change[:4].max() == 0
        assert change[4:].min() > 0


def test_the_penultimate_state_is_what_a_shorter_tower_gives_before_its_norm():
    shorter = dataclasses.replace(CLIP, num_layers=2)
    cut = dict(params(ClipText(CLIP))["params"])
    cut["layers"] = jax.tree.map(lambda leaf: leaf[:2], cut["layers"])
    penultimate = encode(ClipText(CLIP), TOKENS)["penultimate"]
    last = ClipText(shorter).apply({"params": cut}, TOKENS)["last"]
    centred = penultimate - penultimate.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + CLIP.epsilon)
    np.testing.assert_allclose(normed, last, atol=1e-5)


@pytest.mark.parametrize(("eos_id", "ends"), [(None, [3, 5]), (5, [2, 0]), (3, [1, 0])])
def test_clip_is_pooled_at_the_largest_id_or_at_the_first_end(eos_id, ends):
    module = ClipText(dataclasses.replace(CLIP, eos_id=eos_id))
    out = module.apply(params(ClipText(CLIP)), TOKENS)
    kernel = params(ClipText(CLIP))["params"]["projection"]["kernel"]
    np.testing.assert_allclose(out["pooled"], out["last"][jnp.arange(2), jnp.asarray(ends)] @ kernel, atol=1e-6)


def test_too_many_tokens_and_sizes_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="tokens have length 10; at most context_length 9 is needed"):
        ClipText(CLIP).init(jax.random.key(0), jnp.zeros((1, 10), jnp.int32))
    with pytest.raises(InputError, match="d_model 12 is not divisible by num_heads 5"):
        dataclasses.replace(CLIP, num_heads=5)
    with pytest.raises(InputError, match="num_buckets 6 and max_distance 12"):
        dataclasses.replace(T5, num_buckets=6)


def test_t5_sees_both_ways_but_no_pad_and_no_other_segment():
    module = T5Encoder(T5)
    segments = jnp.asarray([[1, 1, 1, 1, 0, 0], [1, 1, 1, 2, 2, 0]], jnp.int32)
    out = encode(module, TOKENS, segments)
    for row, place in ((0, 4), (1, 5), (1, 3)):
        other = encode(module, TOKENS.at[row, place].set(9), segments)
        same = np.asarray(segments[row] != segments[row, place]) & np.asarray(segments[row] > 0)
        assert np.array_equal(other[row, same], out[row, same])
        assert not np.array_equal(other[row, place], out[row, place])
    first = encode(module, TOKENS.at[0, 3].set(9), segments)
    assert np.abs(np.asarray(first - out))[0, 0].max() > 0  # an earlier token sees a later one
    alone = module.apply(params(module), TOKENS[:1, :4])
    np.testing.assert_allclose(alone[0], out[0, :4], atol=1e-5)


def test_without_segments_t5_sees_pads_too():
    module = T5Encoder(T5)
    change = encode(module, TOKENS) - encode(module, TOKENS.at[:, 5].set(9))
    assert np.abs(np.asarray(change)).max(2).min() > 0


def test_buckets_are_exact_near_by_and_logarithmic_far_off():
    table = t5.relative_buckets(200, 32, 128)
    assert table[100, 93:108].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23]
    for distance in (8, 11, 16, 23, 32, 64, 91, 127, 128, 199):
        far = min(8 + int(math.log(distance / 8) / math.log(16) * 8 + 1e-9), 15)
        assert table[199, 199 - distance] == far
        assert table[0, distance] == far + 16
