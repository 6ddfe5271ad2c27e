"""A learned vocabulary: deterministic, of the size asked for, and shorter than bytes."""

import hashlib
import os
import subprocess
import sys

import pytest

from fmzoo.errors import InputError
from fmzoo.text import train_bpe
from fmzoo.text.prompts import prompt_rows

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in", "mind", "suffer"]
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] + str(i * j % 7) for j in range(40)) for i in range(200)]


def test_size_and_special_token():
    tokenizer = train_bpe(TEXTS, 300)
    assert tokenizer.vocab_size == 300
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.specials["<|endoftext|>"] == 0
    assert tokenizer.pad_id is None
    assert len(tokenizer.encode(TEXTS[3])) < 0.7 * len(TEXTS[3])


def test_a_row_that_is_filled_up_tells_where_its_text_starts_and_ends():
    tokenizer = train_bpe(TEXTS, 300, pad=True)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (0, 1, 0)
    row = prompt_rows(tokenizer, ["to be"], 8)[0].tolist()
    assert row[0] == 1
    assert row.index(0) == 1 + len(tokenizer.encode("to be"))
    assert tokenizer.decode(row) == "to be"


def test_bytes_never_seen_still_have_tokens():
    tokenizer = train_bpe(["a"], 257)
    assert sorted(tokenizer.encode(bytes(range(128)).decode())) == sorted(
        set(tokenizer.encode(bytes(range(128)).decode()))
    )
    assert tokenizer.decode(tokenizer.encode("東京\0\r\n")) == "東京\0\r\n"


def test_a_small_corpus_gives_a_smaller_vocabulary():
    assert train_bpe(["ab ab"], 5000).vocab_size < 270


def test_the_number_of_threads_changes_nothing():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_bpe import TEXTS, train_bpe; import hashlib;"
        "print(hashlib.sha256(train_bpe(TEXTS, 400)._tokenizer.to_str().encode()).hexdigest())"
    )
    digests = {hashlib.sha256(train_bpe(TEXTS, 400)._tokenizer.to_str().encode()).hexdigest()}
    for threads in ("1", "5"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, "-c", program, os.path.dirname(__file__)]
        digests.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("texts", "size", "pad", "sentence"),
    [
        (["a"], 256, False, "vocab_size 256 is too small .* at least 257"),
        (["a"], 257, True, "vocab_size 257 is too small .* at least 258"),
        ([], 300, False, "texts are empty"),
        (["", ""], 300, True, "texts are empty"),
    ],
)
def test_bad_input(texts, size, pad, sentence):
    with pytest.raises(InputError, match=sentence):
        train_bpe(texts, size, pad=pad)
