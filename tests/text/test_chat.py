"""Conversations as tokens and weights, and templates that want too much."""

import datetime

import numpy as np
import pytest

from fmzoo import text
from fmzoo.errors import InputError
from fmzoo.text.templates import render_template

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi there!"},
    {"role": "assistant", "content": "Hello, né."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]
UNMARKED = (
    "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)
HIDING = "{% for m in messages %}{{ m.content }}{{ messages | length }}{% endfor %}"
BYTES = text.ByteTokenizer()


def learned(rendered):
    """The text of the tokens that count; specials in their names."""
    names = {i: name for name, i in BYTES.specials.items()}
    kept = [token for token, weight in zip(rendered.tokens, rendered.weights, strict=True) if weight]
    return b"".join(names[i].encode() if i in names else bytes([i]) for i in kept).decode()


@pytest.mark.parametrize("name", text.CHAT_FORMATS)
def test_built_in_formats_mark_the_answers(name):
    rendered = text.render(text.CHAT_FORMATS[name], TALK, BYTES)
    end = {"llama2": " <eos>", "llama3": "<|eot_id|>", "chatml": "<|im_end|>", "gemma": "<end_of_turn>"}
    end = end.get(name, "<eos>" if name == "mistral" else "<|end|>")
    assert learned(rendered) == f"Hello, né.{end}See you.{end}"
    for whole in ("Be kind.", "Hi there!", "Bye"):
        assert rendered.text.count(whole) == 1


@pytest.mark.parametrize("name", text.CHAT_FORMATS)
def test_a_prompt_is_what_stands_before_the_answer(name):
    """Where an answer begins in training is where a prompt ends in use, but for one blank in Llama 2 and Mistral."""
    template = text.CHAT_FORMATS[name]
    prompt = text.render(template, TALK[:-1], BYTES, add_generation_prompt=True, train_on="none")
    whole = text.render(template, TALK, BYTES, train_on="last")
    before = whole.tokens[: int(np.argmax(whole.weights))]
    assert before == prompt.tokens + ([32] if name in ("llama2", "mistral") else [])


def test_templates_without_marks_are_read_by_prefix():
    rendered = text.render(UNMARKED, TALK, BYTES)
    assert learned(rendered) == "Hello, né.<eos>See you.<eos>"
    assert learned(text.render(UNMARKED, TALK, BYTES, train_on="last")) == "See you.<eos>"
    assert sum(text.render(UNMARKED, TALK, BYTES, train_on="all").weights) == len(rendered.tokens)
    with pytest.raises(InputError, match="hides where the prompt of message 2 ends"):
        text.render(HIDING, TALK, BYTES)


def test_a_special_token_in_a_message_is_text():
    """Who writes `<eos>` into a message must not end the turn."""
    talk = [{"role": "user", "content": "a<eos>b"}, {"role": "assistant", "content": "<eos>c"}]
    rendered = text.render(UNMARKED, talk, BYTES)
    assert rendered.tokens.count(BYTES.eos_id) == 2
    assert bytes(i for i in rendered.tokens if i < 256) == b"user: a<eos>b\nassistant: <eos>c\n"
    assert rendered.text == "<bos>user: a<eos>b<eos>\n<bos>assistant: <eos>c<eos>\n"
    assert learned(rendered) == "<eos>c<eos>"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages are missing"),
        ("hello", "messages are missing"),
        ([{"content": "x"}], "message 0 has no role"),
        ([{"role": "user"}], r"message 0 \(user\) has no content"),
        ([{"role": "user", "content": "x"}], "has no assistant turn"),
    ],
)
def test_bad_conversations(messages, says):
    with pytest.raises(InputError, match=says):
        text.render(UNMARKED, messages, BYTES)


def test_turns_out_of_order_are_the_templates_to_refuse():
    with pytest.raises(InputError, match="roles are assistant, user"):
        text.render(text.CHAT_FORMATS["llama2"], [TALK[2], TALK[1]], BYTES)


GROW = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(90) %}{% set ns.x = GROWN %}{% endfor %}{{ ns.x }}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(60000) %}{% for b in range(60000) %}{% endfor %}{% endfor %}",
        GROW.replace("GROWN", "ns.x ~ ns.x"),
        GROW.replace("GROWN", "ns.x + ns.x"),
        GROW.replace("GROWN", "[ns.x, ns.x]"),
        GROW.replace("GROWN", "ns.x | replace('a', 'aa')"),
        GROW.replace("GROWN", "ns.x.replace('a', 'aa')"),
        GROW.replace("GROWN", "ns.x.join([ns.x, ns.x])"),
        GROW.replace("GROWN", "'{}{}'.format(ns.x, ns.x)"),
        GROW.replace("{% set ns.x = GROWN %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        "{% set ns = namespace(x=3) %}{% for i in range(90) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ 'a' * 999999999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 3 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.center(999999999) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ 'a' | indent(999999999, true) }}",
        "{{ {'a': 1} | tojson(indent=99999999) }}",
        "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include 'secrets' %}",
        "{{ lipsum() }}",
        "{{ (((((((",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ raise_exception('no') }}",
        "x" * 200_001,
    ],
    ids=lambda source: source[:40],
)
def test_templates_that_take_too_much_or_reach_too_far(template):
    with pytest.raises(InputError) as caught:
        render_template(template, {"messages": [1]})
    assert len(str(caught.value)) < 300


def test_dates_are_given():
    day = datetime.date(2024, 7, 26)
    assert render_template("{{ strftime_now('%d %b %Y') }}", {}, today=day) == "26 Jul 2024"


def test_spans_of_every_tokenizer():
    """What each token stands for, joined, is the text."""
    words = "Hé, 12 wörlds\n  go 🙂!"
    learned = text.train_bpe([words * 20], 300)
    for tokenizer in (BYTES, learned):
        ids, spans = tokenizer.encode_with_spans(words)
        assert ids == tokenizer.encode(words)
        covered = np.zeros(len(words), bool)
        for start, end in spans:
            covered[start:end] = True
        assert covered.all()
        assert [start for start, _ in spans] == sorted(start for start, _ in spans)
