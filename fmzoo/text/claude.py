"""`claude.json`, the tokenizer of Claude 1 and 2, which Anthropic published in the npm package @anthropic-ai/tokenizer.

An object of `pat_str`, `special_tokens` and `bpe_ranks`; each line of the ranks is ``! OFFSET`` and then tokens in
base64, ranked from the offset on. Its `explicit_n_vocab` of 64,739 is not used: there are 65,000 tokens. The package's
`countTokens` normalises the text by NFKC and takes names of special tokens for them; the tokenizer does neither.
"""

from etils import epath

from fmzoo.errors import InputError
from fmzoo.text.byte_ranks import LARGEST_RANK, ByteRankTokenizer, parse_ranks
from fmzoo.text.files import read_json

FIELDS = {"pat_str": str, "special_tokens": dict, "bpe_ranks": str}
END = "<EOT>"


def load_claude(path: epath.PathLike) -> ByteRankTokenizer:
    """Reads the published file, which the user has; ``<EOT>`` ends a document, nothing begins one.

    Raises:
      InputError: the file cannot be read, a field is missing or of another type, or the ranks are unsound.
    """
    values = read_json(path)
    for field, kind in FIELDS.items():
        if type(values.get(field)) is not kind:
            raise InputError(f"{path} has {field} {str(values.get(field))[:60]!r}; a {kind.__name__} is needed")
    specials = values["special_tokens"]
    if not all(type(i) is int and 0 <= i < LARGEST_RANK for i in specials.values()):
        raise InputError(f"{path}: special_tokens must be an object of tokens and ids in [0, {LARGEST_RANK})")
    ranks = parse_ranks(str(path), b"".join(_lines(path, values["bpe_ranks"])))
    return ByteRankTokenizer(ranks, values["pat_str"], specials, eos=END if END in specials else None)


def _lines(path: epath.PathLike, ranks: str) -> list[bytes]:
    """The ranks as a rank file has them, a line a token."""
    lines = []
    for line in filter(None, ranks.split("\n")):
        mark, _, rest = line.partition(" ")
        offset, _, tokens = rest.partition(" ")
        if mark != "!" or not offset.isdecimal() or len(offset) > 9:
            raise InputError(f"{path} has bpe_ranks that begin a line with {line[:40]!r}; '! OFFSET' is needed")
        lines += [f"{token} {i}\n".encode("utf-8", "replace") for i, token in enumerate(tokens.split(" "), int(offset))]
    return lines
