import itertools

import numpy as np
import pytest

from fmzoo.generate.answers import Answer, StopStrings
from fmzoo.text import ByteTokenizer


def cuts(text, pieces):
    """Every way to cut a text into so many pieces."""
    for places in itertools.combinations(range(1, len(text)), pieces - 1):
        yield [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["END"], "a EEND b", "a E"),
        (["END"], "a EN D", "a EN D"),
        (["aab"], "aaaab", "aa"),
        (["ab", "xaby"], "1xaby2", "1x"),  # "ab" is complete first
        (["xab", "ab"], "1xab2", "1"),  # both at once: the longer
        (["\n\n", "stop"], "sto\n\nstop", "sto"),
        (["x"], "xyz", ""),
        ([], "xyz", "xyz"),
    ],
)
def test_stop_strings_however_they_are_cut(stops, text, expected):
    for pieces in range(1, len(text) + 1):
        for cut in cuts(text, pieces):
            scanner, said = StopStrings(stops), ""
            for piece in cut:
                said += scanner.push(piece)
                assert expected.startswith(said)  # nothing shows that has to be taken back
            assert said + scanner.finish() == expected
            assert scanner.found == (expected != text)


def test_text_comes_as_soon_as_it_is_certain():
    scanner = StopStrings(["END"])
    assert [scanner.push(piece) for piece in ("a", "E", "x", "EN")] == ["a", "", "Ex", ""]


class SpacedTokenizer:
    """Words with a space in front that decoding strips from the first one, as SentencePiece does."""

    bos_id, eos_id, pad_id, vocab_size = 0, 1, None, 6
    words = ("", "", " the", " of", "s", " end")
    specials = {"<s>": 0, "</s>": 1}

    def decode(self, ids):
        return "".join(self.words[i] for i in ids).removeprefix(" ")


def answer(prompt, tokens, stop_ids=(1,), stops=(), tokenizer=None):
    grown = Answer(tokenizer or SpacedTokenizer(), prompt, stop_ids, list(stops))
    pieces = [grown.push([token]) for token in tokens] + [grown.finish("length")]
    scores = np.arange(9.0)
    return pieces, grown.completion(np.array([*tokens, 9, 9]), scores, -scores)


def test_the_space_between_prompt_and_answer_stays():
    pieces, completion = answer([0, 2], [3, 4])
    assert (pieces, completion.text) == ([" of", "s", ""], " ofs")
    assert answer([0], [2, 3])[1].text == "the of"


def test_a_stop_id_ends_and_leaves_no_text():
    _, completion = answer([0, 2], [3, 1, 3])
    assert (completion.text, completion.tokens, completion.ended_by) == (" of", (3, 1), "id")
    assert completion.log_probs.tolist() == [0, 1]
    assert completion.model_log_probs.tolist() == [0, -1]


def test_tokens_reach_to_the_one_that_completes_the_stop_string():
    _, completion = answer([0, 2], [3, 4, 5, 3], stops=["s e"])
    assert (completion.text, completion.tokens, completion.ended_by) == (" of", (3, 4, 5), "string")


def test_the_limit_ends_and_gives_what_was_held_back():
    pieces, completion = answer([0, 2], [3, 4], stops=["s of"])
    assert (pieces, completion.text, completion.ended_by) == ([" of", "", "s"], " ofs", "length")


def test_half_a_character_waits():
    tokens = list("aé".encode())
    pieces, completion = answer([256], tokens, [257], tokenizer=ByteTokenizer())
    assert (pieces, completion.text) == (["a", "", "é", ""], "aé")
    pieces, completion = answer([256], tokens[:2], [257], tokenizer=ByteTokenizer())
    assert (pieces, completion.text) == (["a", "", "\ufffd"], "a\ufffd")


def test_without_a_tokenizer_there_are_tokens_only():
    grown = Answer(None, [3], [1], [])
    assert grown.push([4, 5, 1]) == ""
    completion = grown.completion(np.array([4, 5, 1]), np.zeros(3), np.zeros(3))
    assert (completion.text, completion.tokens, completion.ended_by) == ("", (4, 5, 1), "id")
