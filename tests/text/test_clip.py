"""CLIP's tokenizer and the rows that prompts become."""

import json
import warnings

import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.text import ByteTokenizer, PromptCut, PromptTokenizer, prompt_rows
from fmzoo.text.clip import END, START, ClipTokenizer
from fmzoo.text.hugging_face import byte_characters

MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "a n", "an d</w>"]


def write_vocabulary(folder, **config):
    characters = byte_characters()
    tokens = [*characters, *(f"{c}</w>" for c in characters), *(m.replace(" ", "") for m in MERGES), START, END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 9} | config))
    return {token: i for i, token in enumerate(tokens)}


def test_words_are_merged_in_lower_case_and_come_back(tmp_path):
    ids = write_vocabulary(tmp_path)
    tokenizer = ClipTokenizer.load(tmp_path)
    expected = ["cat</w>", "and</w>", "2</w>", "2</w>", "dog</w>", "'</w>", "s</w>"]
    found = tokenizer.encode("Cat  AND 22\n dog 's")
    assert found[:5] == [ids[token] for token in expected[:5]]
    assert [ids["'"], ids["s</w>"]] == found[5:]
    assert tokenizer.decode(found) == "cat and 2 2 dog 's"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (ids[START], ids[END], ids[END])
    assert tokenizer.specials == {START: ids[START], END: ids[END]}
    assert not hasattr(tokenizer, "decode_bytes")


def test_what_is_saved_is_read_from_either_form(tmp_path):
    write_vocabulary(tmp_path, pad_token="!")
    tokenizer = ClipTokenizer.load(tmp_path)
    tokenizer.save(tmp_path / "both")
    text = "a Cat and a dog, né"
    assert ClipTokenizer.load(tmp_path / "both").encode(text) == tokenizer.encode(text)
    (tmp_path / "both/tokenizer.json").unlink()
    again = ClipTokenizer.load(tmp_path / "both")
    assert again.encode(text) == tokenizer.encode(text)
    assert again.pad_id == tokenizer.pad_id == tokenizer.encode("!")[0] - 256
    assert again.config["model_max_length"] == 9


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("merges.txt", "x yz\n", "does not fit vocab.json"),
        ("vocab.json", '{"a": -1}', "does not number its tokens"),
        ("merges.txt", None, "holds no tokenizer of CLIP"),
    ],
)
def test_damaged_files_are_told(tmp_path, name, content, sentence):
    write_vocabulary(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        ClipTokenizer.load(tmp_path)


def test_rows_are_filled_with_the_pad_of_the_system(tmp_path):
    ids = write_vocabulary(tmp_path, pad_token="!")
    tokenizer = ClipTokenizer.load(tmp_path)
    rows = prompt_rows(tokenizer, ["cat and dog", ""], 7)
    assert rows.dtype == np.int32
    words = [ids["cat</w>"], ids["and</w>"], ids["dog</w>"]]
    assert rows.tolist() == [
        [ids[START], *words, ids[END], ids["!"], ids["!"]],
        [ids[START], ids[END], *[ids["!"]] * 5],
    ]


def test_a_long_prompt_is_cut_and_told_and_one_that_fits_is_not(tmp_path):
    ids = write_vocabulary(tmp_path)
    tokenizer = ClipTokenizer.load(tmp_path)
    with pytest.warns(PromptCut, match="prompt of 4 tokens is over the 2 that clip takes; cut off: 'dog cat'"):
        rows = prompt_rows(tokenizer, ["cat and dog cat"], 4, "clip")
    assert rows.tolist() == [[ids[START], ids["cat</w>"], ids["and</w>"], ids[END]]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt_rows(tokenizer, ["cat and"], 4)


def test_each_encoder_has_rows_of_its_own(tmp_path):
    write_vocabulary(tmp_path)
    tokenizer = ClipTokenizer.load(tmp_path)
    both = PromptTokenizer({"a": tokenizer, "b": tokenizer}, {"a": 5, "b": 8})
    assert {name: rows.shape for name, rows in both.encode(["cat", "dog"]).items()} == {"a": (2, 5), "b": (2, 8)}
    with pytest.raises(InputError, match="the same names"):
        PromptTokenizer({"a": tokenizer}, {"b": 5})


def test_prompts_that_cannot_be_rows_are_told(tmp_path):
    write_vocabulary(tmp_path)
    tokenizer = ClipTokenizer.load(tmp_path)
    with pytest.raises(InputError, match="prompt '7' is of type int; a text is needed"):
        prompt_rows(tokenizer, [7], 5)
    with pytest.raises(InputError, match="rows of 2 tokens"):
        prompt_rows(tokenizer, ["a"], 2)
    with pytest.raises(InputError, match="the pad None"):
        prompt_rows(ByteTokenizer(), ["a"], 5)
