"""Round trips of every kind of tokenizer, what is found in a folder, and files that are refused."""

import base64
import io
import json
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmzoo.errors import InputError
from fmzoo.text import ByteTokenizer, StreamDecoder, Tokenizer, encode_document, load_tokenizer, train_bpe
from fmzoo.text.byte_ranks import PUBLISHED, ByteRankTokenizer, parse_ranks
from fmzoo.text.hugging_face import HuggingFaceTokenizer, byte_characters
from fmzoo.text.sentence_piece import SentencePieceTokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then the dog sleeps",
    "naïve café, 東京 and ☃; the end",
] * 20
SAMPLE = "The quick  brown fox, naïve 東京 🦊!\n\tthe end"


def byte_ranks():
    ranks = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257, b" the": 258, b"\xe2\x98": 259}
    return ByteRankTokenizer(ranks, PUBLISHED["r50k_base.tiktoken"].pattern, {"<|end|>": 300}, eos="<|end|>")


def sentence_piece(**options):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    return SentencePieceTokenizer(model.getvalue())


def llama_json():
    """A `tokenizer.json` in the style of Llama 2: pieces with a leading bar, bytes as a last resort."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "t", "h", "e", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {p: i for i, p in enumerate(pieces)}
    built = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    built.add_special_tokens([AddedToken(p, normalized=False) for p in pieces[:3]])
    return built.to_str()


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "bytes": ByteTokenizer(),
        "bpe": train_bpe(CORPUS, 320),
        "llama": HuggingFaceTokenizer(llama_json(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}}),
        "sentencepiece": sentence_piece(),
        "ranks": byte_ranks(),
    }


KINDS = ["bytes", "bpe", "llama", "sentencepiece", "ranks"]
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_implements_the_protocol(tokenizers, kind):
    assert isinstance(tokenizers[kind], Tokenizer)
    assert max(tokenizers[kind].specials.values()) < tokenizers[kind].vocab_size


@kinds
@given(text=st.text(max_size=40))
@example(SAMPLE)
@example("<|endoftext|></s><s><bos><|end|>")
@settings(deadline=None, max_examples=60)
def test_any_text_survives(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert not set(ids) & set(tokenizer.specials.values()) - {tokenizer.specials.get("<unk>")}
    if kind == "sentencepiece":  # its own marks for a space and for nothing are not text
        text = text.replace("▁", " ").replace("\0", "")
        assert tokenizer.decode(ids).replace("\0", "") == text
    elif kind == "llama":
        assert tokenizer.decode(ids) == text.replace("▁", " ")
    else:
        assert tokenizer.decode(ids) == text


@kinds
def test_save_and_load_is_a_round_trip(tokenizers, kind, tmp_path):
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path / "saved")
    found = load_tokenizer(tmp_path / "saved")
    assert type(found) is type(tokenizer)
    for name in ("vocab_size", "bos_id", "eos_id", "pad_id", "specials"):
        assert getattr(found, name) == getattr(tokenizer, name), name
    assert found.encode(SAMPLE) == tokenizer.encode(SAMPLE)
    found.save(tmp_path / "again")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@kinds
def test_pickles_for_worker_processes(tokenizers, kind):
    copy = pickle.loads(pickle.dumps(tokenizers[kind]))
    assert copy.encode(SAMPLE) == tokenizers[kind].encode(SAMPLE)
    assert (copy.bos_id, copy.eos_id, copy.pad_id) == tuple(
        getattr(tokenizers[kind], f"{role}_id") for role in ("bos", "eos", "pad")
    )


@kinds
def test_special_tokens_and_strangers_decode_to_nothing(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("the end")
    noise = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    assert tokenizer.decode([*noise, *ids, *noise, tokenizer.vocab_size, -1]) == "the end"


@kinds
@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_streamed_text_is_the_text(tokenizers, kind, data):
    tokenizer = tokenizers[kind]
    if kind == "llama":  # bytes that are no UTF-8 have no one spelling there
        ids = tokenizer.encode(data.draw(st.text(max_size=20)))
    else:
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    decoder = StreamDecoder(tokenizer)
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == tokenizer.decode(ids)


@kinds
def test_a_stream_never_shows_half_a_character(tokenizers, kind):
    decoder = StreamDecoder(tokenizers[kind])
    parts = [decoder.push(i) for i in tokenizers[kind].encode("the ☃ 🦊 ends")]
    assert not any("\ufffd" in part for part in parts)
    assert sum(bool(part) for part in parts) > 4
    assert "".join(parts) == "the ☃ 🦊 ends"


@kinds
def test_spans_are_where_tokens_stand(tokenizers, kind):
    ids, spans = tokenizers[kind].encode_with_spans(SAMPLE)
    assert ids == tokenizers[kind].encode(SAMPLE)
    assert {i for start, end in spans for i in range(start, end)} == set(range(len(SAMPLE)))
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    place = SAMPLE.index("東")
    assert [SAMPLE[start:end] for start, end in spans if start <= place < end][0].strip().startswith("東")


def test_a_document_has_bos_and_eos_where_there_are_any(tokenizers):
    assert encode_document(tokenizers["bytes"], "a") == [256, 97, 257]
    assert encode_document(tokenizers["ranks"], "the") == [257, 300]


def test_byte_characters_are_those_of_byte_level_vocabularies():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(byte_characters()) == set(ByteLevel.alphabet())
    assert byte_characters()[ord(" ")] == "Ġ"
    assert byte_characters()[ord("\n")] == "Ċ"


def test_bytes_of_a_byte_level_vocabulary(tokenizers):
    bpe = tokenizers["bpe"]
    for text in ("é", "🦊", " the"):
        assert b"".join(bpe.decode_bytes([i]) for i in bpe.encode(text)) == text.encode()
    assert not hasattr(tokenizers["llama"], "decode_bytes")


def test_sentencepiece_control_tokens(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    assert tokenizer.specials == {"<s>": 1, "</s>": 2}
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert sentence_piece(pad_id=3, bos_id=-1).bos_id is None


def test_special_tokens_come_from_the_files_beside(tokenizers, tmp_path):
    (tmp_path / "tokenizer.json").write_text(llama_json())
    assert load_tokenizer(tmp_path).eos_id is None
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"bos_token_id": 1}, "eos_token_id": [2, 5]}))
    from_ids = load_tokenizer(tmp_path)
    assert (from_ids.bos_id, from_ids.eos_id, from_ids.pad_id) == (1, 2, None)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<unk>"}}))
    assert load_tokenizer(tmp_path).pad_id == 0
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>", "chat_template": "{{ x }}"}))
    found = load_tokenizer(tmp_path / "tokenizer.json")
    assert found.pad_id == 2
    found.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["chat_template"] == "{{ x }}"


def test_a_template_in_its_own_file_is_kept(tmp_path):
    (tmp_path / "tokenizer.json").write_text(llama_json())
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert load_tokenizer(tmp_path).config["chat_template"] == "{{ messages }}"


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path):
    from tokenizers import Tokenizer as Built

    built = Built.from_str(llama_json())
    built.enable_truncation(2)
    built.enable_padding(length=9)
    (tmp_path / "tokenizer.json").write_text(built.to_str())
    assert len(load_tokenizer(tmp_path).encode("the the the")) == 3


def test_what_a_folder_holds(tokenizers, tmp_path):
    assert load_tokenizer(tmp_path) is None
    tokenizers["sentencepiece"].save(tmp_path)
    (tmp_path / "tokenizer.model").rename(tmp_path / "spm.model")
    assert type(load_tokenizer(tmp_path)) is SentencePieceTokenizer
    tokenizers["bpe"].save(tmp_path)
    assert type(load_tokenizer(tmp_path)) is HuggingFaceTokenizer
    (tmp_path / "other.model").write_bytes(b"")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"holds 2 tokenizers \(other.model, spm.model\); name the file"):
        load_tokenizer(tmp_path)


def test_a_model_file_may_hold_ranks(tmp_path):
    lines = [base64.b64encode(bytes([b])).decode() + f" {b}" for b in range(256)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    found = load_tokenizer(tmp_path)
    assert found.decode(found.encode(SAMPLE)) == SAMPLE
    assert (found.bos_id, found.eos_id, found.vocab_size) == (128000, 128001, 128256)
    assert (found.specials["<|eot_id|>"], found.specials["<|end_header_id|>"]) == (128009, 128007)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_compile_and_lose_nothing(name):
    import regex

    text = "It's 12345 naïve CamelCase\n\n  words,\r\n\ttabs   and 東京!?/ end  "
    assert "".join(regex.findall(PUBLISHED[name].pattern, text)) == text


def test_blanks_at_the_end_are_one_piece_for_cl100k_only():
    import regex

    ends = {name: regex.findall(published.pattern, "a\n \t") for name, published in PUBLISHED.items()}
    assert ends["cl100k_base.tiktoken"] == ["a", "\n \t"]
    assert ends["tokenizer.model"] == ["a", "\n", " \t"]


def refused(path, content):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError) as caught:
        load_tokenizer(path)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_hostile_files_are_refused_in_one_sentence(tmp_path):
    assert "is not readable" in refused(tmp_path / "tokenizer.json", {"model": {"type": "BPE"}})
    assert "is not UTF-8" in refused(tmp_path / "tokenizer.json", b"\xff\xfe")
    assert "no SentencePiece model" in refused(tmp_path / "x.model", b"\x80\x04 this is a pickle")
    assert "no SentencePiece model" in refused(tmp_path / "x.model", b"")
    assert "is no tokenizer" in refused(tmp_path / "x.bin", b"")
    assert "another byte tokenizer" in refused(tmp_path / "byte_tokenizer.json", {"tokenizer": "bytes", "bos_id": 7})
    assert "is not JSON" in refused(tmp_path / "byte_tokenizer.json", b"[" * 100_000)
    assert "holds a JSON list" in refused(tmp_path / "byte_tokenizer.json", [])
    assert "line 1 is b'!!!! 0'" in refused(tmp_path / "x.tiktoken", b"!!!! 0\n")
    assert "rank 99999999 outside" in refused(tmp_path / "x.tiktoken", b"YQ== 99999999\n")
    assert "byte 0 has no rank" in refused(tmp_path / "r50k_base.tiktoken", b"YQ== 0\n")
    assert "x.tiktoken.json beside it or one of r50k" in refused(tmp_path / "x.tiktoken", b"YQ== 0\n")


def test_a_damaged_description_of_ranks_is_refused(tmp_path):
    byte_ranks().save(tmp_path)
    ranks, beside = (tmp_path / "tokenizer.tiktoken").read_bytes(), tmp_path / "tokenizer.tiktoken.json"
    good = json.loads(beside.read_text())
    for change, sentence in [
        ({"pattern": "("}, "does not compile"),
        ({"specials": {"<|end|>": -1}}, "specials must be an object"),
        ({"specials": {"<|end|>": 3}}, "each id once"),
        ({"eos": "<|ned|>"}, "is not a special token; the nearest are <|end|>"),
        ({"bos": 3}, "must each be a special token or null"),
        ({"code": "x"}, "pattern, specials, bos, eos and pad are needed"),
    ]:
        beside.write_text(json.dumps(good | change))
        assert sentence in refused(tmp_path / "tokenizer.tiktoken", ranks)


def claude(**changes):
    """What @anthropic-ai/tokenizer holds, with 258 tokens in two lines."""
    tokens = [bytes([b]) for b in range(256)] + [b"th", b"the"]
    encoded = [base64.b64encode(token).decode() for token in tokens]
    ranks = f"! 5 {' '.join(encoded[:100])}\n! 105 {' '.join(encoded[100:])}\n"
    specials = {"<EOT>": 0, "<META>": 1, "<META_START>": 2, "<META_END>": 3, "<SOS>": 4}
    pattern = PUBLISHED["r50k_base.tiktoken"].pattern
    return {"explicit_n_vocab": 263, "pat_str": pattern, "special_tokens": specials, "bpe_ranks": ranks} | changes


def test_claude_s_published_file_is_read(tmp_path):
    (tmp_path / "claude.json").write_text(json.dumps(claude()))
    found = load_tokenizer(tmp_path)
    assert found.encode("the th") == [262, 5 + 32, 261]
    assert found.decode(found.encode(SAMPLE)) == SAMPLE
    assert found.encode("<EOT>") != [0]
    assert (found.vocab_size, found.bos_id, found.eos_id, found.specials["<SOS>"]) == (263, None, 0, 4)
    found.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode(SAMPLE) == found.encode(SAMPLE)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bpe_ranks": None}, "has bpe_ranks 'None'; a str is needed"),
        ({"special_tokens": {"<EOT>": 2**40}}, "special_tokens must be an object"),
        ({"special_tokens": {"<EOT>": 5}}, "each id once is needed"),
        ({"bpe_ranks": "5 IQ=="}, "'! OFFSET' is needed"),
        ({"bpe_ranks": "! 99999999999 IQ=="}, "'! OFFSET' is needed"),
        ({"bpe_ranks": "! 5 \ud800"}, "base64 and a rank are needed"),
        ({"bpe_ranks": "! 5 IQ=="}, "byte 0 has no rank"),
        ({"pat_str": "("}, "does not compile"),
    ],
    ids=range(8),
)
def test_a_damaged_file_of_claude_is_refused(change, sentence, tmp_path):
    assert sentence in refused(tmp_path / "claude.json", claude(**change))


def test_a_role_that_is_no_token_is_refused():
    with pytest.raises(InputError, match=r"eos_token '<end>' is not in the tokenizer"):
        HuggingFaceTokenizer(llama_json(), {"eos_token": "<end>"})


def test_rank_lines_name_their_number():
    assert parse_ranks("f", b"YQ== 0\n\nYg== 1\n") == {b"a": 0, b"b": 1}
    with pytest.raises(InputError, match="f line 2 repeats"):
        parse_ranks("f", b"YQ== 0\nYQ== 1\n")


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist; a folder or a file is needed"):
        load_tokenizer(tmp_path / "absent")


def test_files_that_are_too_large_are_not_read(tmp_path):
    from fmzoo.text.files import read_bytes

    (tmp_path / "x").write_bytes(b"1234")
    with pytest.raises(InputError, match="has 4 bytes; at most 3 are read"):
        read_bytes(tmp_path / "x", largest=3)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    import errno
    import pathlib

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", no_space)
    monkeypatch.setattr(type(__import__("etils.epath").epath.Path("x")), "write_bytes", no_space)
    with pytest.raises(OSError, match="No space left"):
        ByteTokenizer().save(tmp_path)
    assert list(tmp_path.iterdir()) == []
