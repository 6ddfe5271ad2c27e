"""Records of every layout from every kind of file, and one sentence on each that is wrong."""

import gzip
import json
import pickle

import numpy as np
import pytest

from fmzoo import data
from fmzoo.data.record_files import TfdsObjects, _plain
from fmzoo.data.record_formats import FORMATS
from fmzoo.errors import InputError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


Q = (user("q"),)
TALK = [user("q"), assistant("a")]
READ = {  # a line of each layout, and what it becomes
    "messages": ({"messages": TALK}, data.Conversation(tuple(TALK))),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        data.Conversation(({"role": "system", "content": "s"}, *TALK)),
    ),
    "alpaca": (
        {"instruction": "q", "input": "x", "output": "a"},
        data.Conversation((user("q\n\nx"), assistant("a"))),
    ),
    "prompt_completion": ({"prompt": "q", "completion": [assistant("a")]}, data.Conversation(tuple(TALK))),
    "preference": (
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 4, "score_rejected": 1.5},
        data.Preference(Q, "a", "b", 4.0, 1.5),
    ),
    "hh": (
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        data.Preference(Q, "a", "b"),
    ),
    "ranking": (
        {"prompt": [user("q")], "responses": ["a", [assistant("b")]], "ratings": [2, 1]},
        data.Ranking(Q, ("a", "b"), (2.0, 1.0)),
    ),
    "judged": ({"prompt": "q", "completion": "a", "label": False}, data.Judged(Q, "a", False)),
    "problem": ({"question": "q", "answer": "so 3\n#### 1,234"}, data.Problem(Q, "so 3\n#### 1,234", "1234")),
    "prompt": ({"prompt": "q", "answer": "4"}, data.Problem(Q, "", "4")),
}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_layout_is_known():
    assert READ.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", READ)
def test_a_layout_is_found_and_read(name, tmp_path):
    line, record = READ[name]
    found = data.records(write(tmp_path / "some.jsonl", [line, line]))
    assert found.format == name
    assert list(found) == [record, record]
    assert data.records(tmp_path / "some.jsonl", format=name)[1] == record


def test_a_prompt_may_stand_in_both_answers(tmp_path):
    record = data.Preference(Q, "a", "b")
    both = {"chosen": TALK, "rejected": [user("q"), assistant("b")]}
    assert data.records(write(tmp_path / "a.jsonl", [both]))[0] == record
    assert data.records(write(tmp_path / "b.jsonl", [both | {"prompt": [user("q")]}]))[0] == record
    turns = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: "
    longer = data.records(write(tmp_path / "c.jsonl", [{"chosen": turns + "x", "rejected": turns + "y"}]))[0]
    assert longer == data.Preference((*TALK, user("r")), "x", "y")


def test_every_kind_of_file(tmp_path):
    import pyarrow
    from pyarrow import parquet

    line, record = READ["messages"]
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(json.dumps(line).encode()))
    parquet.write_table(pyarrow.Table.from_pylist([line, line]), tmp_path / "train-1.parquet")
    write(tmp_path / "test.jsonl", [READ["messages"][0]])
    found = data.records(tmp_path)
    assert list(found) == [record] * 3
    assert list(pickle.loads(pickle.dumps(found))) == [record] * 3
    assert len(data.records(tmp_path, "test")) == 1
    assert len(data.records(tmp_path, "all")) == 4
    with pytest.raises(InputError, match="has no split 'validation'"):
        data.records(tmp_path, "validation")


def test_a_data_set_of_tfds(monkeypatch):
    """Bytes, arrays and a sequence of features by column, as `as_data_source` gives them, become a record."""
    example = {"messages": {"role": np.array([b"user", b"assistant"], object), "content": [b"q", b"a"]}}
    assert _plain(example, "here") == {"messages": TALK}
    assert _plain({"label": np.bool_(True), "n": np.int64(3), "s": b"x"}, "here") == {"label": True, "n": 3, "s": "x"}
    monkeypatch.setattr("fmzoo.data.tfds_documents.is_known", lambda name: name == "talks")
    monkeypatch.setattr("fmzoo.data.tfds_documents.prepared", lambda name: name)
    monkeypatch.setattr("fmzoo.data.tfds_documents.open_split", lambda builder, name, split: [example] * 2)
    found = data.records("talks")
    assert list(found) == [READ["messages"][1]] * 2
    assert pickle.loads(pickle.dumps(TfdsObjects("talks", "train")))[1] == {"messages": TALK}
    with pytest.raises(InputError, match="talks example 1 is not UTF-8"):
        _plain({"s": b"\xff"}, "talks example 1")


BROKEN = {
    '{"messages": []}': "line 2 field 'messages' is '\\[\\]'; a list that is not empty is needed",
    '{"messages": [{"role": "user", "content": "q"}]}': "line 2 field 'messages' has no assistant turn",
    '{"messages": [{"role": "user"}]}': "line 2 field messages\\[0\\] has no field 'content'",
    '{"messages": ["q"]}': "line 2 field messages\\[0\\] is a str; an object with role and content is needed",
    '{"talk": 1}': "line 2 field 'messages' is 'None'; a list that is not empty is needed",
    "[1]": "line 2 is a JSON list; an object is needed",
    "{": "line 2 is not JSON",
    '{"messages": [{"role": "user", "content": "\\ud800"}]}': "line 2 field messages\\[0\\] has half a character",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_named(line, tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps(READ["messages"][0]) + "\n" + line + "\n")
    with pytest.raises(InputError, match=BROKEN[line]) as error:
        data.records(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 300


WRONG = {
    "same": ({"prompt": "q", "chosen": "a", "rejected": "a"}, "has the same text in 'chosen' and 'rejected'"),
    "no number": (
        {"prompt": "q", "chosen": "a", "rejected": "b", "chosen_rating": "high", "rejected_rating": 1},
        "field 'chosen_rating' has 'high'; a number is needed",
    ),
    "two turns": (
        {"prompt": "q", "chosen": [assistant("a"), user("r")], "rejected": "b"},
        "field 'chosen' goes on from the prompt with assistant, user; one assistant turn is needed",
    ),
    "no prompt": (
        {"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]},
        "fields 'chosen' and 'rejected' begin with different messages; one prompt is needed",
    ),
    "label": ({"prompt": "q", "completion": "a", "label": "good"}, "field 'label' is 'good'; true or false is needed"),
    "ratings": (
        {"prompt": "q", "responses": ["a", "b"], "ratings": [1]},
        "has 2 responses and 1 ratings; at least 2, and as many",
    ),
    "role": (
        {"conversations": [{"from": "alien", "value": "q"}]},
        "field conversations\\[0\\] is from 'alien'; the nearest are",
    ),
    "completion": ({"prompt": "q", "completion": 3}, "field 'completion' is '3'; a list that is not empty is needed"),
    "nothing known": ({"text": "q"}, "has the fields \\['text'\\]; those of one layout are needed"),
    "not text": ({"instruction": 3, "output": "a"}, "line 1 has a int in 'instruction'; a text is needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_record_of_another_shape_is_named(name, tmp_path):
    line, sentence = WRONG[name]
    with pytest.raises(InputError, match=sentence) as error:
        data.records(write(tmp_path / "some.jsonl", [line]))
    assert str(error.value).startswith(f"{tmp_path / 'some.jsonl'} line 1 ")
    assert len(str(error.value)) < 300


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist; a .jsonl, .jsonl.gz or .parquet file or a folder is needed"):
        data.records(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="record format is 'alpacca'; the nearest are alpaca"):
        data.records(tmp_path, format="alpacca")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="holds no record; at least one is needed"):
        data.records(tmp_path / "empty.jsonl")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="is of no known kind; .jsonl, .jsonl.gz or .parquet is needed"):
        data.records(tmp_path / "notes.txt")
