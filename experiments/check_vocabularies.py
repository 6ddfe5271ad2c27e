"""Tokenizers read from GGUF vocabularies give the ids that llama.cpp expects of them.

Claim: for every vocabulary in a folder that has strings (`NAME.gguf.inp`) and expected ids (`NAME.gguf.out`) beside it,
each string becomes those ids. llama.cpp ships them in its `models/`, which is part of the source of a Python package:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar xzf llama_cpp_python-0.3.36.tar.gz
    python experiments/check_vocabularies.py llama_cpp_python-0.3.36/vendor/llama.cpp/models

Hardware: any. Exits with status 1 if an id differs; a vocabulary of a kind that is not read
here is named with the reason.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

from fmzoo.errors import InputError
from fmzoo.interop.gguf_format import read_file
from fmzoo.interop.gguf_tokenizers import read_tokenizer

SEPARATOR = "\n__ggml_vocab_test__\n"


class Difference(NamedTuple):
    """A string whose ids are not those expected."""

    text: str
    expected: list[int]
    found: list[int]


def compare(vocabulary: Path) -> tuple[int, list[Difference]]:
    """How many strings stand beside a vocabulary, and those whose ids differ.

    Raises:
      InputError: the vocabulary is of a kind that is not read here.
    """
    tokenizer = read_tokenizer(read_file(vocabulary).metadata, vocabulary.name)
    texts = beside(vocabulary, ".inp").split(SEPARATOR)
    expected = [[int(i) for i in line.split()] for line in beside(vocabulary, ".out").split("\n")[: len(texts)]]
    found = [tokenizer.encode(text) for text in texts]
    triples = zip(texts, expected, found, strict=True)
    return len(texts), list(itertools.starmap(Difference, (t for t in triples if t[1] != t[2])))


def beside(vocabulary: Path, ending: str) -> str:
    """The text of a file beside a vocabulary, its line ends as they are."""
    return Path(f"{vocabulary}{ending}").read_bytes().decode()


def main() -> int:
    """Prints a row for each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    wrong = 0
    print("| vocabulary | strings | same ids |\n| --- | ---: | ---: |")
    for ids in sorted(parser.parse_args().folder.glob("*.gguf.out")):
        vocabulary = ids.with_suffix("")
        try:
            count, differences = compare(vocabulary)
        except InputError as error:
            print(f"| {vocabulary.stem} | not read | {error} |", flush=True)
            continue
        print(f"| {vocabulary.stem} | {count} | {count - len(differences)} |", flush=True)
        wrong += len(differences)
        for text, expected, found in differences[:3]:
            print(f"{text!r} is {expected}, found {found}", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
