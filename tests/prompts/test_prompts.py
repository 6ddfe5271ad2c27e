"""Prompts of tasks, examples in them, and the vote over answers."""

import numpy as np
import pytest

from fmzoo import prompts
from fmzoo.errors import InputError
from fmzoo.prompts import Example

POOL = [Example(f"q{i}", "yes" if i < 9 else "no") for i in range(12)]


def test_tasks_hold_what_they_are_given():
    for messages in (
        prompts.summarize_in("A tale.", 7),
        prompts.extract_as("A tale.", {"type": "object"}),
        prompts.answer_from("Who?", "A tale."),
    ):
        assert [message["role"] for message in messages] == ["system", "user"]
        assert "A tale." in messages[1]["content"]
    assert "at most 7 words" in prompts.summarize_in("A tale.", 7)[0]["content"]
    assert prompts.answer_from("Who? ")[1]["content"] == "Who?"
    assert '{"type": "object"}' in prompts.extract_as("A tale.", {"type": "object"})[1]["content"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: prompts.summarize_in("  "), "text is empty"),
        (lambda: prompts.summarize_in("x", 0), "words is 0"),
        (lambda: prompts.answer_from(""), "question is empty"),
        (lambda: prompts.choose_at_random(POOL, 13, np.random.default_rng(0)), "count is 13; from 0 to 12"),
        (lambda: prompts.choose_nearest(POOL, 1, np.ones((3, 2)), np.ones(2)), "embeddings are of 3 examples"),
    ],
)
def test_bad_arguments(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_examples_are_turns_that_were_answered():
    messages = prompts.with_examples("Say yes or no.", POOL[:2], "Well?")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[-1]["content"] == "Well?"


def test_examples_at_random_are_even_over_answers():
    seen = set()
    for seed in range(20):
        chosen = prompts.choose_at_random(POOL, 6, np.random.default_rng(seed))
        assert len(set(chosen)) == 6
        assert sum(example.answer == "no" for example in chosen) == 3
        seen.update(chosen)
    assert seen == set(POOL)
    assert prompts.choose_at_random(POOL, 0, np.random.default_rng(0)) == []


def test_the_nearest_example_stands_last():
    angles = np.linspace(0, 3, len(POOL))
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 13)[:, None]
    chosen = prompts.choose_nearest(POOL, 3, embeddings, embeddings[5] * 9)
    assert chosen[-1] == POOL[5]
    assert set(chosen[:-1]) == {POOL[4], POOL[6]}


@pytest.mark.parametrize(
    ("text", "answer", "number"),
    [
        ("2 and 2.\nAnswer: 4.", "4", "4"),
        ("The answer is **blue**.", "blue", None),
        ("answer = 1,204 ships", "1,204 ships", "1204"),
        ("So it makes 12, then 7", None, "7"),
        ("Answer: 3\nNo.\nAnswer: -5.5", "-5.5", "-5.5"),
        ("none", None, None),
        ("Answer:", None, None),
        ("Answer:\nParis", "Paris", None),
        ("**Answer:** Paris.", "Paris", None),
        ("The answers differ. Answer: 7", "7", "7"),
        ("My answer: 4. No, wait; answer: 5", "5", "5"),
        ("I answered 12 of 20, which is a share of 0.6", None, "0.6"),
        ("So it is 10-3", None, "3"),
    ],
)
def test_final_answers(text, answer, number):
    assert prompts.final_answer(text) == answer
    assert prompts.final_answer(text, number=True) == number


def test_the_vote():
    vote = prompts.self_consistency(["Answer: 4", "Answer: 5", "the answer is 4.", "hm"])
    assert vote == ("4", 0.5, {"4": 2, "5": 1})
    assert prompts.self_consistency(["hm"]).answer is None
    assert prompts.think_aloud([{"role": "user", "content": "2+2?"}])[0]["content"].startswith("2+2?\n\nThink step")
