"""Prompt engineering as functions that compose: tasks, examples, reasoning aloud, and a vote over answers."""

from fmzoo.prompts.few_shot import Example, choose_at_random, choose_nearest, with_examples
from fmzoo.prompts.reasoning import STEPS, Vote, final_answer, self_consistency, think_aloud
from fmzoo.prompts.tasks import Messages, answer_from, extract_as, summarize_in, write_about

__all__ = [
    "Example",
    "Messages",
    "STEPS",
    "Vote",
    "answer_from",
    "choose_at_random",
    "choose_nearest",
    "extract_as",
    "final_answer",
    "self_consistency",
    "summarize_in",
    "think_aloud",
    "with_examples",
    "write_about",
]
