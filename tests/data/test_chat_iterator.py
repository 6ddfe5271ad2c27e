"""Conversations as packed batches: what weighs, what is cut, what is refused, where they go on."""

import numpy as np
import pytest

from fmzoo.data import ChatIterator, ChatRows, Conversation, Judged, Preference, Problem, Ranking
from fmzoo.data.conversations import Conversations, conversation
from fmzoo.errors import InputError
from fmzoo.text import CHAT_FORMATS, ByteTokenizer

ASKED = ({"role": "user", "content": "2+2?"},)


def chats(count=6):
    return [
        Conversation(({"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"<{i}>"}))
        for i in range(count)
    ]


def iterator(records=None, length=96, **options):
    chat = ChatRows(CHAT_FORMATS["chatml"], ByteTokenizer(), length)
    return ChatIterator(chats() if records is None else records, chat, batch_size=2, **options)


def weighed(batch):
    return [ByteTokenizer().decode(t[w > 0]) for t, w in zip(batch["targets"], batch["weights"], strict=True)]


def test_only_answers_weigh_and_all_of_them_do():
    batch = next(iterator())
    assert batch["inputs"].shape == (2, 96)
    for text, segments in zip(weighed(batch), batch["segment_ids"], strict=True):
        assert text.count("<") == text.count("<|im_end|>") * 2 == segments.max() * 2
        assert "say" not in text
    assert "say" in weighed(next(iterator(train_on="all")))[0]


def test_a_long_conversation_is_cut_and_one_whose_answer_is_gone_is_passed_over():
    long = Conversation(({"role": "user", "content": "x" * 200}, {"role": "assistant", "content": "gone"}))
    batches = iterator([*chats(3), long])
    text = "".join("".join(weighed(next(batches))) for _ in range(6))
    assert "gone" not in text
    assert "<2>" in text
    with pytest.raises(InputError, match="none of 1 conversations has an answer within 96 tokens"):
        iterator([long])


def test_goes_on_where_it_was():
    first = iterator()
    for _ in range(3):
        next(first)
    second = iterator()
    second.set_state(first.get_state())
    expected = next(first)
    for name, values in next(second).items():
        np.testing.assert_array_equal(values, expected[name])
    with pytest.raises(InputError, match="digest"):
        iterator([*chats(5), *chats(1)]).set_state(first.get_state())


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        (Preference(ASKED, "4", "5"), "4"),
        (Ranking(ASKED, ("5", "4", "3"), (0.1, 0.9, 0.2)), "4"),
        (Judged(ASKED, "4", True), "4"),
        (Problem(ASKED, "It is 4.", "4"), "It is 4."),
        (Problem(ASKED, "", "4"), "4"),
    ],
)
def test_any_record_with_an_answer_is_a_conversation(record, answer):
    found = Conversations([record])[0]
    assert found.messages == (*ASKED, {"role": "assistant", "content": answer})
    assert conversation(found) is found


@pytest.mark.parametrize("record", [Judged(ASKED, "5", False), Problem(ASKED)])
def test_a_record_without_a_wanted_answer_is_refused(record):
    with pytest.raises(InputError, match="'2[+]2[?]' .* has no answer to learn from"):
        conversation(record)
