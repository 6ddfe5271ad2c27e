"""Rows of tokens from records: weights stand on answers only, and what is too long loses its prompt first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo import data, objectives, text
from fmzoo.errors import InputError
from fmzoo.objectives import dpo_losses, preference
from tests.objectives.small_policy import terms_of

TEMPLATE = """
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ 'A' }}{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}
{%- else -%}
{{ 'U' ~ message.content }}
{%- endif -%}
{%- endfor -%}
"""
TOKENIZER = text.ByteTokenizer()
EOS = TOKENIZER.eos_id


def user(content):
    return {"role": "user", "content": content}


def said(content):
    return {"role": "assistant", "content": content}


def rows(length):
    return data.ChatRows(TEMPLATE, TOKENIZER, length)


def counted(row, prefix=""):
    """What has weight, as text; the eos as a full stop."""
    ids = row[f"{prefix}targets"][row[f"{prefix}weights"] != 0]
    return TOKENIZER.decode([ord(".") if i == EOS else i for i in ids.tolist()])


def shown(ids):
    return TOKENIZER.decode([ord(".") if i == EOS else i for i in ids.tolist() if i])


PAIR = data.Preference((user("hello"),), "yes", "never", 4.0, 1.0)


def test_a_pair_weighs_its_answers():
    row = rows(16).preference(PAIR)
    assert shown(row["chosen_inputs"]) == "UhelloAyes"
    assert shown(row["chosen_targets"]) == "helloAyes."
    assert counted(row, "chosen_") == "yes."
    assert counted(row, "rejected_") == "never."
    assert row["chosen_segment_ids"].sum() == 10
    assert row["rejected_segment_ids"].sum() == 12
    assert (row["weights"], row["chosen_rating"], row["rejected_rating"]) == (1, 4, 1)
    assert row["chosen_inputs"].dtype == np.int32


def test_what_is_too_long_loses_the_same_of_both_prompts_first():
    row = rows(8).preference(PAIR)  # the rejected side has 13 tokens and room for 9
    assert shown(row["rejected_inputs"]) == "loAnever"
    assert shown(row["chosen_inputs"]) == "loAyes"
    assert counted(row, "chosen_") == "yes."
    tight = rows(4).preference(PAIR)  # now the answer's end goes too
    assert shown(tight["rejected_inputs"]) == "Anev"
    assert counted(tight, "rejected_") == "neve"
    whole = rows(9).scored(PAIR)
    assert shown(whole["rejected_inputs"]) == "loAnever."
    assert shown(whole["chosen_inputs"]) == "loAyes."
    assert whole["chosen_segment_ids"].sum() == 7


def test_a_ranking_keeps_its_responses_together():
    ranking = data.Ranking((user("q"),), ("a", "bcd"), (2.0, 1.0))
    row = rows(8).ranked(ranking, 3)
    assert [shown(ids) for ids in row["inputs"]] == ["UqAa.", "UqAbcd.", ""]
    assert row["segment_ids"].sum(axis=1).tolist() == [5, 7, 0]
    assert row["ratings"].tolist() == [2, 1, 0]
    assert row["weights"].tolist() == [1, 1, 0]
    with pytest.raises(InputError, match="ranking has 2 responses; at most 1 fit in a row"):
        rows(8).ranked(ranking, 1)


def test_a_judged_answer_has_one_that_belongs_to_another_prompt():
    records = [
        data.Judged((user(q),), c, good) for q, c, good in (("p", "a", True), ("p", "b", False), ("q", "c", True))
    ]
    prompts = [record.prompt for record in records]
    assert [data.mismatch(i, prompts) for i in range(3)] == [2, 2, 0]
    row = rows(8).judged(records[0], records[2])
    assert counted(row) == "a."
    assert counted(row, "mismatched_") == "c."
    assert shown(row["mismatched_inputs"]) == "UpAc"
    assert row["desirable"] == 1
    with pytest.raises(InputError, match="all 2 records have one prompt; KTO needs at least two that differ"):
        data.mismatch(0, prompts[:2])


def test_conversations_are_packed_with_their_weights():
    talks = [
        data.Conversation((user("q"), said("ab"), user("r"), said("c"))),
        data.Conversation((user("long" * 9), said("lost"))),
        data.Conversation((user("s"), said("de"))),
    ]
    documents = [rows(16).document(talk) for talk in talks]
    packed = data.pack_documents(documents, 16)
    assert len(packed) == 1  # of the second nothing counts once it is cut
    assert counted(packed[0]) == "ab.c.de."
    assert shown(packed[0]["inputs"]) == "UqAab.UrAcUsAde"
    assert packed[0]["segment_ids"].tolist() == [1] * 10 + [2] * 5 + [0]
    assert packed[0]["positions"][10:].tolist() == [0, 1, 2, 3, 4, 0]
    last = rows(16).document(talks[0], "last")
    assert counted(data.pack_documents([last], 16)[0]) == "c."


def test_rows_are_what_an_objective_reads():
    batch = data.stack_rows([rows(16).preference(PAIR)] * 2, [7, 9])
    assert batch["example_id"].tolist() == [7, 9]
    policy = SmallestPolicy()
    found = terms_of(preference(policy, dpo_losses, reference=None), {"bias": jnp.zeros(258)}, {}, batch)
    assert found["chosen"] == pytest.approx(-4 * np.log(258), rel=1e-5)  # y, e, s and the end, each one of 258
    assert found["rejected"] == pytest.approx(-6 * np.log(258), rel=1e-5)
    assert objectives.sequence_sums(jnp.ones((2, 16)), batch["chosen_weights"]).tolist() == [4, 4]


class SmallestPolicy:
    """Every token has the same chance."""

    def apply(self, variables, x, positions=None, segment_ids=None, method=None):
        if method == "features":
            return jnp.zeros((*x.shape, 1)), {}, None
        return jnp.broadcast_to(variables["params"]["bias"], (*x.shape[:2], 258))


def test_a_row_has_room():
    with pytest.raises(InputError, match="row length is 1; at least 2 tokens are needed"):
        rows(1)
    assert jax.tree.map(np.shape, rows(4).scored(PAIR))["chosen_inputs"] == (4,)
