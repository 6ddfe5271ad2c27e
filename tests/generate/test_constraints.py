"""Answers that a schema, an expression or a grammar allows, drawn from a model that has learned nothing."""

import json
import re

import jax
import numpy as np
import pytest

from fmzoo import generate, models, text
from fmzoo.errors import InputError
from fmzoo.generate.sampling import log_prob

TOKENIZER = text.ByteTokenizer()
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
        "place": {
            "type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained():
    config = models.DecoderConfig(
        vocab_size=300, d_model=16, num_layers=1, context_length=128, layers="unrolled",
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=16),
    )  # fmt: skip
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    return models.Pretrained(module, params, config, TOKENIZER)


def check(value):
    """Whether a value is of the schema, written out by hand."""
    assert set(value) - {"place"} == {"name", "age", "tags"}
    assert isinstance(value["name"], str)
    assert len(value["name"]) <= 12
    assert type(value["age"]) is int
    assert 0 <= value["age"] <= 120
    assert 1 <= len(value["tags"]) <= 3
    assert set(value["tags"]) <= {"red", "green"}
    assert set(value.get("place", {"x": 0})) == {"x"}


def test_answers_are_of_the_schema(pretrained):
    """However few tokens there are: 41 are the fewest, and a random model seldom ends by itself."""
    constraint = generate.Constraint(TOKENIZER, generate.json_schema(SCHEMA))
    ended = set()
    for room in (41, 110):
        answers = generate.constrained(pretrained, ["x"] * 25, constraint, jax.random.key(room), max_new_tokens=room)
        for answer in answers:
            check(json.loads(answer.text))
            assert len(answer.tokens) <= room
            assert len(answer.tokens) == len(answer.log_probs) == len(answer.model_log_probs)
            ended.add(answer.ended_by)
    assert ended == {"id", "length"}


def test_an_answer_is_its_own_whatever_is_beside_it(pretrained):
    """Rows end at different tokens, some by force: none of it shows in another row."""
    constraint = generate.Constraint(TOKENIZER, generate.json_schema(SCHEMA))
    prompts, key = ["x", "a much longer prompt", "y" * 15, "x"], jax.random.key(5)
    together = generate.constrained(pretrained, prompts, constraint, key, max_new_tokens=60)
    assert together[0].tokens != together[3].tokens
    for i, prompt in enumerate(prompts):
        (alone,) = generate.constrained(pretrained, prompt, constraint, key, max_new_tokens=60, example_ids=[i])
        assert alone.tokens == together[i].tokens
        np.testing.assert_allclose(alone.model_log_probs, together[i].model_log_probs, atol=1e-5)


def test_log_probs_are_those_of_a_forward_pass(pretrained):
    answers = generate.constrained(
        pretrained, ["xy", "a much longer prompt"], generate.Constraint(TOKENIZER, generate.regex("[a-f]{20}")),
        jax.random.key(0), max_new_tokens=20,
    )  # fmt: skip
    for prompt, answer in zip(("xy", "a much longer prompt"), answers, strict=True):
        begun = [*([] if TOKENIZER.bos_id is None else [TOKENIZER.bos_id]), *TOKENIZER.encode(prompt)]
        tokens = jax.numpy.array([[*begun, *answer.tokens]])
        logits = pretrained.module.apply({"params": pretrained.params}, tokens)[0, len(begun) - 1 : -1]
        expected = log_prob(logits, tokens[0, len(begun) :])
        np.testing.assert_allclose(answer.model_log_probs, expected, atol=1e-5)


def test_a_key_repeats_an_answer(pretrained):
    constraint = generate.Constraint(TOKENIZER, generate.regex("[a-f]{20}"))
    (one,), (two,), (other,) = (
        generate.constrained(pretrained, "x", constraint, jax.random.key(seed), max_new_tokens=20) for seed in (0, 0, 1)
    )
    assert one.tokens == two.tokens
    assert one.text != other.text
    np.testing.assert_array_equal(one.log_probs, two.log_probs)
    assert (one.log_probs > one.model_log_probs).all()


def test_expressions_and_grammars(pretrained):
    for seed in range(5):
        key = jax.random.key(seed)
        for grammar, pattern in (
            (generate.regex("[a-z]{3,9}-[0-9]{2}"), "[a-z]{3,9}-[0-9]{2}"),
            (generate.lark('start: "(" start ")" | "x"'), r"\(*x\)*"),
        ):
            (answer,) = generate.constrained(
                pretrained, "x", generate.Constraint(TOKENIZER, grammar), key, max_new_tokens=14
            )
            assert re.fullmatch(pattern, answer.text), answer.text


def test_tokens_of_several_bytes(pretrained):
    """A learned vocabulary, whose tokens cross the parts of the grammar."""
    learned = text.train_bpe(['{"name": "red green", "tags": ["red"], "age": 10}' * 30], 290)
    model = models.Pretrained(pretrained.module, pretrained.params, pretrained.config, learned)
    constraint = generate.Constraint(learned, generate.json_schema(SCHEMA))
    for answer in generate.constrained(model, ["x"] * 5, constraint, jax.random.key(0), max_new_tokens=60):
        check(json.loads(answer.text))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: generate.json_schema({"type": "objekt"}), "JSON schema is not usable|constraint is none"),
        (lambda: generate.regex("[a-"), "the constraint is none"),
        (lambda: generate.lark("begin: 1"), "the constraint is none"),
    ],
)
def test_bad_constraints(make, says):
    with pytest.raises(InputError, match=says) as caught:
        generate.Constraint(TOKENIZER, make())
    assert len(str(caught.value)) < 300


def test_too_few_tokens_are_refused(pretrained):
    constraint = generate.Constraint(TOKENIZER, generate.json_schema(SCHEMA))
    with pytest.raises(InputError, match="max_new_tokens is 40; the constraint needs more"):
        generate.constrained(pretrained, "x", constraint, jax.random.key(0), max_new_tokens=40)
