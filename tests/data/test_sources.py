"""Everything that `--data` accepts, and one sentence for everything that it does not."""

import gzip
import json
import pickle

import pytest

from fmzoo.data import Mixture, source, splits
from fmzoo.data.text_files import GzippedJsonLines, JsonLines
from fmzoo.errors import InputError

TEXTS = ["first\ndocument", "naïve 東京", "", "last"]


def jsonl(texts, field="text"):
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(path, **columns):
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(pyarrow.table(columns), path, row_group_size=2)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_text_file_is_one_document(tmp_path):
    assert list(source(write(tmp_path / "a.txt", "naïve\r\n東京".encode()))) == ["naïve\r\n東京"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert list(source(write(tmp_path / "a.txt", b"\xef\xbb\xbfabc"))) == ["abc"]
    assert list(source(write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + jsonl(["x"])))) == ["x"]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_records_at_random(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        parquet(path, text=TEXTS, other=range(4))
    else:
        content = jsonl(TEXTS).replace(b"}\n", b"}\n\n  \n", 1).rstrip(b"\n")  # blank lines, no last newline
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    documents = source(path)
    assert len(documents) == 4
    assert [documents[i] for i in (3, 1, 0, 2)] == [TEXTS[i] for i in (3, 1, 0, 2)]
    copied = pickle.loads(pickle.dumps(documents))
    assert list(copied) == TEXTS
    with pytest.raises(IndexError):
        documents[4]


def test_another_field(tmp_path):
    assert list(source(write(tmp_path / "a.jsonl", jsonl(TEXTS, "body")), field="body")) == TEXTS


def test_a_folder_is_its_files_in_the_order_of_paths(tmp_path):
    write(tmp_path / "b.txt", b"third")
    write(tmp_path / "a" / "z.jsonl", jsonl(["first", "second"]))
    write(tmp_path / "c.jsonl.gz", gzip.compress(jsonl(["fourth"])))
    parquet(tmp_path / "d.parquet", text=["fifth"])
    write(tmp_path / ".hidden" / "x.txt", b"not this")
    write(tmp_path / "README.md", b"nor this")
    assert list(source(tmp_path)) == ["first", "second", "third", "fourth", "fifth"]
    assert splits(tmp_path) == ("train",)


def test_splits_of_a_folder(tmp_path):
    write(tmp_path / "train-00000-of-00002.jsonl", jsonl(["a"]))
    write(tmp_path / "train-00001-of-00002.jsonl", jsonl(["b"]))
    write(tmp_path / "test" / "x.txt", b"c")
    assert splits(tmp_path) == ("train", "test")
    assert list(source(tmp_path, "train")) == ["a", "b"]
    assert list(source(tmp_path, "test")) == ["c"]
    assert sorted(source(tmp_path, "all")) == ["a", "b", "c"]
    with pytest.raises(InputError, match="has no split 'validation'; the nearest are"):
        source(tmp_path, "validation")


def test_embedded_corpora():
    assert source("classics", "test")[0].startswith("MACBETH")
    assert splits("classics") == ("train", "validation", "test")
    assert splits("bible") == ("train", "validation")


def test_mixtures(tmp_path):
    write(tmp_path / "a.txt", b"abc")
    mixture = source(f"{tmp_path}/a.txt=1,bible=3", "train")
    assert isinstance(mixture, Mixture)
    assert mixture.shares == [2500, 7500]
    assert mixture[0] == "abc"
    assert len(mixture) == 1 + len(source("bible"))
    assert splits("shakespeare=1,bible=1") == ("train", "validation")


def test_remote_paths_are_read_like_local_ones(bucket):
    """The paths and calls of `gs://`, without a network."""
    folder = bucket / "corpus"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "b.txt").write_bytes(b"z")
    (folder / "train.jsonl").write_bytes(jsonl(["x", "y"]))
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(jsonl(["v", "w"])))
    assert list(source("gs://bucket/corpus/train.jsonl")) == ["x", "y"]
    assert list(source("gs://bucket/corpus", "train")) == ["x", "y", "v", "w"]
    assert list(source("gs://bucket/corpus", "test")) == ["z"]


def test_links_that_go_round_end(tmp_path):
    write(tmp_path / "a" / "x.txt", b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list(source(tmp_path)) == ["x"]


def test_only_offsets_of_json_lines_are_held(tmp_path):
    documents = JsonLines(write(tmp_path / "a.jsonl", jsonl(["x" * 100_000] * 20)))
    assert len(pickle.dumps(documents)) < 2000
    documents[3]
    assert len(pickle.dumps(documents)) < 2000


def refusal(*arguments, **options):
    with pytest.raises(InputError) as caught:
        source(*arguments, **options)
    sentence = str(caught.value)
    assert len(sentence) < 300
    assert "\n" not in sentence
    return sentence


def test_missing_and_empty(tmp_path):
    assert "does not exist; a file (.txt" in refusal(tmp_path / "absent.jsonl")
    assert "'shakespere' does not exist; the nearest are shakespeare" in refusal("shakespere")
    assert "does not exist" in refusal("")
    assert "does not exist" in refusal("x" * 5000)
    assert "does not exist" in refusal("a\0b")
    assert "does not exist" in refusal("ftp://somewhere/a.txt")
    assert "holds no .txt, .jsonl, .jsonl.gz or .parquet file" in refusal(tmp_path)
    assert "is of no known kind" in refusal(write(tmp_path / "a.csv", b"x"))
    assert "holds no text" in refusal(write(tmp_path / "a.txt", b""))
    assert "holds no text" in refusal(write(tmp_path / "a.jsonl", b"\n"))
    assert "holds no text" in refusal(write(tmp_path / "b.jsonl", jsonl(["", ""])))
    assert "holds no text" in refusal(write(tmp_path / "c.jsonl.gz", gzip.compress(b"")))
    parquet(tmp_path / "d.parquet", text=["", ""])
    assert "holds no text" in refusal(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"text": "x"', "line 3 is not JSON (Expecting"),
        (b"[" * 100_000, "line 3 is not JSON"),
        (b'"text"', "line 3 is a JSON str; an object with 'text' is needed"),
        (b'{"txt": "x", "id": 3}', "line 3 has no field 'text'; the nearest are txt"),
        (b'{"text": 3}', "line 3 has a int in 'text'; a string is needed"),
        (b'{"text": "\xff"}', "line 3 is not UTF-8 (byte 10)"),
        (rb'{"text": "\ud800"}', "line 3 has half a character"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_bad_lines_are_named(tmp_path, line, sentence, kind):
    content = b'{"text": "x"}\n\n' + line + b'\n{"text": "y"}\n'
    path = write(tmp_path / f"a.{kind}", gzip.compress(content) if kind.endswith("gz") else content)
    assert f"{path} {sentence}" in refusal(path)


def test_damaged_files(tmp_path):
    assert "is not UTF-8 (byte 1)" in refusal(write(tmp_path / "a.txt", b"a\xff"))
    packed = gzip.compress(jsonl(TEXTS * 100))
    assert "is not a complete gzip file" in refusal(write(tmp_path / "a.jsonl.gz", packed[:-20]))
    assert "is not a complete gzip file" in refusal(write(tmp_path / "b.jsonl.gz", jsonl(TEXTS)))
    assert "is not a Parquet file" in refusal(write(tmp_path / "a.parquet", b"PAR1 and more, but no end"))
    parquet(tmp_path / "b.parquet", text=["some text"] * 2000)
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(b"PAR1" + b"\xff" * 60 + whole[64:])
    assert "is damaged: its column 'text' cannot be read" in refusal(tmp_path / "b.parquet")


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    from fmzoo.data import text_files

    monkeypatch.setattr(text_files, "LARGEST_UNPACKED", 1000)
    with pytest.raises(InputError, match="unpacks to more than 1000 bytes"):
        GzippedJsonLines(write(tmp_path / "a.jsonl.gz", gzip.compress(b" " * 100_000)))


def test_parquet_columns(tmp_path):
    parquet(tmp_path / "a.parquet", texts=["x"], number=[1])
    assert "has no column 'text'; the nearest are texts" in refusal(tmp_path / "a.parquet")
    assert "column 'number' is int64; a string column is needed" in refusal(tmp_path / "a.parquet", field="number")
    parquet(tmp_path / "b.parquet", text=["x", None])
    assert "row 1 has no 'text'" in refusal(tmp_path / "b.parquet")


def test_splits_that_are_not_there(tmp_path):
    write(tmp_path / "a.txt", b"x")
    assert "has no split 'test'; the nearest are" in refusal(tmp_path / "a.txt", "test")
    assert "split 'test' of bible is empty" in refusal("bible", "test")


@pytest.mark.parametrize("name", ["bible=0", "bible=x", "=1", "bible=1,bible=2", "bible=inf", "bible=1,", "bible=-1"])
def test_bad_mixtures(name):
    assert "is not NAME=WEIGHT with a positive weight, each name once" in refusal(name)


def test_a_mistake_far_behind_the_beginning_is_found_when_it_is_read(tmp_path, monkeypatch):
    from fmzoo.data import sources

    monkeypatch.setattr(sources, "CHECKED", 10)
    documents = source(write(tmp_path / "a.jsonl", jsonl(["x" * 20]) + b"{}\n"))
    with pytest.raises(InputError, match="line 2 has no field 'text'; there are none"):
        documents[1]
