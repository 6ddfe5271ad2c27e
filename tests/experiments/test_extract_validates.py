"""A random model's answers validate, and the validator would tell."""

import json

import extract_validates
import jax
import pytest

from fmzoo import models, text


@pytest.fixture(scope="module")
def pretrained():
    config = models.DecoderConfig(
        vocab_size=258, d_model=16, num_layers=1, context_length=1024, layers="unrolled",
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=16),
    )  # fmt: skip
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    template = text.CHAT_FORMATS["chatml"].replace("<|im_end|>", "<eos>")
    return models.Pretrained(module, params, config, text.ByteTokenizer(), template)


def test_all_validate_and_none_without_the_constraint(pretrained, monkeypatch):
    monkeypatch.setattr(extract_validates, "ROOMS", (75,))
    valid, forced, distinct, _ = extract_validates.count(pretrained, extract_validates.constrained, 25)
    assert valid == 25
    assert forced > 5
    assert distinct > 20
    assert extract_validates.count(pretrained, extract_validates.free, 25)[0] == 0


def test_the_validator_tells():
    right = {"name": "Ann", "age": 34, "role": "sailor", "ports": ["Oslo"], "paid": True}
    assert extract_validates.validates(json.dumps(right))
    for wrong in ({"age": 121}, {"role": "cook"}, {"ports": ["a"] * 4}, {"name": "x" * 31}, {"more": 1}):
        assert not extract_validates.validates(json.dumps({**right, **wrong}))
    assert not extract_validates.validates(json.dumps(right)[:-1])
