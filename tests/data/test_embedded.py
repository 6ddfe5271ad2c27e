"""What the embedded corpora hold, and that nothing held out has leaked into training."""

import collections
import pickle
import re

import pytest

from fmzoo.data.corpus_splits import HELD_OUT, split_of
from fmzoo.data.embedded import CORPORA, EmbeddedDocuments, records
from fmzoo.errors import InputError

EVERYTHING = [record for file in CORPORA["classics"] for record in records(file)]


def letters(text):
    """Words in lower case, so that no change of edition in capitals, commas or lines hides a copy."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def shared_windows(held_out, others, width):
    """Windows of `width` characters of `held_out` that occur in `others`.

    Any such window covers a whole aligned block of half its width, so only those blocks are looked up.
    """
    half = (width + 1) // 2
    blocks = {text[i : i + half] for text in held_out for i in range(len(text) - half + 1)}
    joined, found = "\n".join(held_out), set()
    for text in others:
        for i in range(0, len(text) - half + 1, half):
            if text[i : i + half] in blocks:
                windows = (text[j : j + width] for j in range(max(0, i + half - width), i + 1))
                found.update(window for window in windows if len(window) == width and window in joined)
    return found


def test_no_window_of_the_held_out_works_is_in_training_or_tuning():
    held_out = [letters(record.text) for record in EVERYTHING if record.split == "test"]
    others = [letters(record.text) for record in EVERYTHING if record.split != "test"]
    assert len(held_out) == 191
    assert shared_windows(held_out, others, 80) == set()
    assert shared_windows(held_out, others, 60) == set()


def test_the_search_for_windows_finds_a_planted_one():
    held_out = [letters(EmbeddedDocuments("classics", "test")[40])]
    planted = "before " + held_out[0][101:181] + " after"
    assert held_out[0][101:181] in shared_windows(held_out, [planted], 80)
    assert shared_windows(held_out, [planted], 90) == set()


def test_held_out_works_are_complete():
    counted = collections.Counter(record.work for record in EVERYTHING if record.split == "test")
    assert counted == {"sonnets": 154, "macbeth": 27, "tempest": 10}
    assert set(counted) == set(HELD_OUT)
    assert "From fairest creatures we desire increase," in EmbeddedDocuments("shakespeare", "test").records[27].text


def test_sonnets_in_the_passionate_pilgrim_were_taken_out():
    parts = [record.part for record in EVERYTHING if record.work == "passionate_pilgrim"]
    assert parts == [str(number) for number in range(3, 14)]
    assert not any("When my love swears that she is made of truth" in r.text for r in EVERYTHING if r.split != "test")


def test_sizes():
    sizes = {
        (file, split): (len(texts), sum(map(len, texts)))
        for file in CORPORA["classics"]
        for split in ("train", "validation", "test")
        if (texts := [record.text for record in records(file) if record.split == split])
    }
    assert sizes == {
        ("shakespeare_milton", "train"): (806, 5486439),
        ("shakespeare_milton", "validation"): (19, 136279),
        ("shakespeare_milton", "test"): (191, 296144),
        ("king_james", "train"): (1163, 4037277),
        ("king_james", "validation"): (26, 100572),
    }


def test_documents_are_bounded_and_tidy():
    for record in EVERYTHING:
        assert 100 < len(record.text) < 70_000
        assert record.text.endswith("\n")
        assert not re.search(r"[\r\t\x00-\x09\x1a]| \n|\n\n\n", record.text)
        assert record.title
        assert record.part
    places = [(record.work, record.part, file) for file in CORPORA["classics"] for record in records(file)]
    assert len(set(places)) == len(places)


def test_splits_follow_from_names():
    assert all(record.split == split_of(record.work, record.part) for record in EVERYTHING)


def test_the_bible_is_whole():
    chapters = collections.Counter(record.title for record in records("king_james"))
    assert (len(chapters), sum(chapters.values()), chapters["Psalms"]) == (66, 1189, 150)
    assert records("king_james")[0].text.startswith("In the beginning God created the heaven and the earth.\n")


def test_classics_are_both():
    assert len(EmbeddedDocuments("classics")) == len(EmbeddedDocuments("shakespeare")) + len(EmbeddedDocuments("bible"))
    everything = EmbeddedDocuments("classics", "all")
    assert list(pickle.loads(pickle.dumps(everything))) == list(everything)
    assert len(pickle.dumps(everything)) < 200


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [
        ("shakspeare", "train", "'shakspeare' is not embedded; the nearest are shakespeare"),
        ("bible", "trian", "split 'trian' is not in bible; the nearest are train"),
        ("bible", "test", "split 'test' of bible is empty: its held-out works are in shakespeare and classics"),
    ],
)
def test_unknown_names(name, split, sentence):
    with pytest.raises(InputError, match=sentence):
        EmbeddedDocuments(name, split)
