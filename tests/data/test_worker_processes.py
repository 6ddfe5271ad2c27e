"""Worker processes give the batches and states that no workers give, and end without a word."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fmzoo.data import TextIterator, source
from fmzoo.errors import InputError
from fmzoo.text import ByteTokenizer, train_bpe

DOCUMENTS = [f"document number {i} " * (1 + i % 9) for i in range(60)]


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(left, right):
    return all(np.array_equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a)


def test_workers_change_neither_batches_nor_states():
    settings = {"batch_size": 6, "length": 40, "rows": range(1, 6), "packing": "first_fit"}
    tokenizer = train_bpe(DOCUMENTS, 300)
    plain = TextIterator(DOCUMENTS, tokenizer, **settings)
    with TextIterator(DOCUMENTS, tokenizer, workers=2, **settings) as ahead:
        for _ in range(4):
            assert same(take(ahead, 3), take(plain, 3))
            assert ahead.get_state() == plain.get_state()
        state = json.loads(json.dumps(ahead.get_state()))
        expected = take(plain, 4)
        take(ahead, 2)
        ahead.set_state(state)
        assert ahead.examples == 72
        assert same(take(ahead, 4), expected)


def test_a_mistake_in_a_worker_is_the_same_sentence():
    with (
        TextIterator(source("bible"), ByteTokenizer(), batch_size=2, length=8, vocab_size=257, workers=5) as batches,
        pytest.raises(InputError, match="token id 257 is not under the vocab_size 257"),
    ):
        take(batches, 3)


PROGRAM = """
from fmzoo.data import TextIterator, source
from fmzoo.text import ByteTokenizer
if __name__ == "__main__":
    batches = TextIterator(source("shakespeare", "test"), ByteTokenizer(), batch_size=4, length=64, workers=2)
    print(next(batches)["inputs"].shape, next(batches)["example_id"])
"""


def test_python_ends_quietly_with_workers_alive(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "error", str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "(4, 64) [4 5 6 7]", "")
