"""Multiple choice: the same numbers as reading every prompt with every answer alone."""

import jax
import numpy as np
import pytest

from fmzoo import evals, models
from fmzoo.errors import InputError

EXAMPLES = [5, 6, 7, 8]
PROMPTS = [[*EXAMPLES, 1, 2, 3], [*EXAMPLES, 1, 9], [*EXAMPLES, *range(10, 30)], [*EXAMPLES, 1, 2, 3, 4], EXAMPLES]
CHOICES = [[11], [12, 13], [12, 14], [15]]


@pytest.fixture(scope="module")
def pretrained():
    config = models.DecoderConfig(
        vocab_size=40, d_model=16, num_layers=2, context_length=64, layers="unrolled",
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=32),
    )  # fmt: skip
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    return models.Pretrained(module, jax.tree.map(lambda leaf: 3 * leaf, params), config)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:3], [[3, 4], [5]]], ids=["whole prompt shared", "some", "none"])
def test_scores_are_those_of_whole_rows(pretrained, prompts):
    found = evals.choice_log_probs(pretrained, prompts, CHOICES, batch_size=2)
    assert found.shape == (len(prompts), 4)
    for i, prompt in enumerate(prompts):
        rows = evals.log_probs(pretrained, [[*prompt, *choice] for choice in CHOICES])
        expected = [row[len(prompt) - 1 :].sum() for row in rows]
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)


def test_what_cannot_be_scored_is_refused(pretrained):
    for prompts, choices, says in (
        ([[]], [[1]], "is empty"), ([[1]], [[40]], "holds token 40"), ([[1] * 64], [[1, 2]], "make 65 tokens"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            evals.choice_log_probs(pretrained, prompts, choices)
