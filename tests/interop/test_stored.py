"""Big checkpoints: each byte read once onto a mesh, a part alone, and conversions that hold a tensor at a time."""

import json
import weakref

import big_checkpoint
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import fmzoo
from fmzoo import models, parallel
from fmzoo.errors import InputError
from fmzoo.interop import gguf_format, huggingface
from fmzoo.interop import safetensors as ours
from fmzoo.interop.folders import read_tensors
from fmzoo.interop.stored import Stored
from tests.command import fmzoo as fmzoo_command
from tests.interop.test_huggingface import assert_same, pretrained

LLAMA = {
    "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 32,
}  # fmt: skip
EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
# Tensors one for one, several in one, several in one head by head, and experts.
FAMILIES = {
    "llama": LLAMA,
    "phi3": LLAMA | {"model_type": "phi3"},
    "gpt_neox": LLAMA | {"model_type": "gpt_neox", "rotary_pct": 0.5},
    "mixtral": LLAMA | {"model_type": "mixtral"} | EXPERTS,
}
MESHES = {"llama": "fsdp=8", "phi3": "fsdp=4,tensor=2", "gpt_neox": "fsdp=2,tensor=4", "mixtral": "fsdp=4,expert=2"}


def made(folder, family="llama", **changes):
    """A checkpoint in several files."""
    big_checkpoint.make(folder, FAMILIES[family] | changes, shard=3000)
    return folder


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}


def leaves_of(folder):
    """The leaves that are still in the files, by path."""
    return flatten_dict(huggingface.load(folder, None, lambda path, leaf: leaf).params, sep="/")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mesh_takes_each_byte_of_the_files_once(family, tmp_path):
    folder = made(tmp_path / "model", family)
    whole = fmzoo.load(folder, "bfloat16").params
    with big_checkpoint.recorded_reads() as reads:
        loaded = fmzoo.load(folder, "bfloat16", mesh=MESHES[family])
    found = {name: big_checkpoint.most_often(spans) for name, spans in reads.items()}
    assert found == {name: (size, 1) for name, size in sizes(folder).items()}
    assert len(found) > 3
    assert_same(jax.device_get(loaded.params), jax.device_get(whole))
    mesh = parallel.mesh(MESHES[family])
    for path, leaf in flatten_dict(loaded.params, sep="/").items():
        assert leaf.sharding.spec == parallel.specs(models.DECODER_RULES, {path: leaf}, mesh)[path]


def test_a_byte_that_is_read_twice_is_found(tmp_path):
    folder = made(tmp_path / "model")
    with big_checkpoint.recorded_reads() as reads:
        for _ in range(2):
            huggingface.load(folder)
    assert {big_checkpoint.most_often(spans)[1] for spans in reads.values()} == {2}
    assert big_checkpoint.most_often([(0, 4), (4, 8), (2, 2)]) == (8, 1)
    assert big_checkpoint.most_often([(0, 4), (3, 8), (9, 11)]) == (11, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_device_of_many_reads_its_own_part_only(family, tmp_path):
    folder, mesh = made(tmp_path / "model", family), parallel.mesh(MESHES[family])
    for path, leaf in leaves_of(folder).items():
        spec = parallel.specs(models.DECODER_RULES, {path: leaf}, mesh)[path]
        index = jax.sharding.NamedSharding(mesh, spec).devices_indices_map(leaf.shape)[jax.devices()[5]]
        box = tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, leaf.shape, strict=True))
        with big_checkpoint.recorded_reads() as reads:
            (part,) = leaf.read([box])
        np.testing.assert_array_equal(part, np.asarray(leaf)[box])
        counted = [big_checkpoint.most_often(spans) for spans in reads.values()]
        assert sum(count for count, _ in counted) == part.nbytes
        assert max(often for _, often in counted) == 1


def test_a_part_that_cuts_through_heads_is_right(tmp_path):
    leaf = leaves_of(made(tmp_path / "model", "gpt_neox"))["period/0/attention/key/kernel"]
    for start, stop in ((0, 3), (3, 9), (5, 6), (15, 16)):
        (part,) = leaf.read([(slice(1, 3), slice(2, 5), slice(start, stop))])
        np.testing.assert_array_equal(part, np.asarray(leaf)[1:3, 2:5, start:stop])


def test_leaves_are_read_in_the_dtype_asked_for(tmp_path):
    folder = made(tmp_path / "model")
    loaded = fmzoo.load(folder, "float16", mesh="fsdp=4,data=2")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(loaded.params)} == {"float16"}
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), fmzoo.load(folder).params)
    assert_same(jax.device_get(loaded.params), expected)


def test_a_head_that_is_stored_twice_is_compared_in_each_part(tmp_path):
    folder = made(tmp_path / "model", tie_word_embeddings=True)
    (file,) = [path for path in sorted(folder.glob("*.safetensors")) if "embed" in str(ours.read_file(path).keys())]
    tensors = safetensors.numpy.load_file(file)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = file.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    head = np.array(tensors["model.embed_tokens.weight"])
    safetensors.numpy.save_file(tensors | {"lm_head.weight": head}, file)
    with big_checkpoint.recorded_reads() as reads:
        fmzoo.load(folder, mesh="fsdp=8")
    assert max(big_checkpoint.most_often(spans)[1] for spans in reads.values()) == 1
    head[-1, -1] += 1
    safetensors.numpy.save_file(tensors | {"lm_head.weight": head}, file)
    for mesh in ("fsdp=8", None):
        with pytest.raises(InputError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
            fmzoo.load(folder, mesh=mesh)


def test_a_mesh_that_does_not_divide_is_refused(tmp_path):
    folder = made(tmp_path / "model", hidden_size=12, num_attention_heads=2)
    with pytest.raises(InputError, match="mesh axis fsdp=8 does not divide embed=12"):
        fmzoo.load(folder, mesh="fsdp=8")


class Held:
    """Counts the bytes of arrays that were read and not let go."""

    def __init__(self):
        self.most, self._alive = 0, []

    def note(self, array):
        self._alive = [one for one in self._alive if one() is not None]
        self._alive.append(weakref.ref(array if array.base is None else array.base))
        self.most = max(self.most, sum(one().nbytes for one in self._alive))
        return array


@pytest.fixture
def held(monkeypatch):
    held, read, read_leaf = Held(), ours.Tensor.read, Stored.read
    monkeypatch.setattr(ours.Tensor, "read", lambda tensor, cut: held.note(read(tensor, cut)))
    monkeypatch.setattr(Stored, "read", lambda leaf, boxes: [held.note(part) for part in read_leaf(leaf, boxes)])
    return held


@pytest.mark.parametrize("form", ["huggingface", "gguf"])
def test_a_conversion_holds_a_few_tensors(form, tmp_path, held):
    folder = made(tmp_path / "model", num_hidden_layers=12)
    largest = max(tensor.nbytes for tensor in read_tensors(folder).values())
    fmzoo.convert(folder, tmp_path / "new", form)
    assert 0 < held.most <= 3 * largest
    fmzoo.save(fmzoo.load(folder), tmp_path / "whole", form)
    assert held.most > 10 * largest


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversion_keeps_tensors_and_family(family, tmp_path):
    folder = made(tmp_path / "model", family)
    fmzoo.convert(folder, tmp_path / "new")
    assert json.loads((tmp_path / "new/config.json").read_text())["model_type"] == family
    before, after = read_tensors(folder), read_tensors(tmp_path / "new")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        np.testing.assert_array_equal(after[name], tensor)


def test_a_conversion_changes_dtype_and_goes_to_gguf_and_back(tmp_path):
    folder = made(tmp_path / "model")
    fmzoo.convert(folder, tmp_path / "wide", dtype="float32")
    assert {str(tensor.dtype) for tensor in read_tensors(tmp_path / "wide").values()} == {"float32"}
    fmzoo.convert(folder, tmp_path / "model.gguf", "gguf")
    fmzoo.save(fmzoo.load(folder), tmp_path / "eager.gguf", "gguf")
    assert (tmp_path / "model.gguf").read_bytes() == (tmp_path / "eager.gguf").read_bytes()
    assert gguf_format.read_file(tmp_path / "model.gguf").tensors["token_embd.weight"].encoding == "F16"
    fmzoo.convert(tmp_path / "model.gguf", tmp_path / "back", dtype="bfloat16")
    assert big_checkpoint.different_tensors(folder, tmp_path / "back") == []
    assert_same(fmzoo.load(tmp_path / "model.gguf", mesh="fsdp=8").params, fmzoo.load(folder).params)


def test_a_conversion_that_is_refused_leaves_nothing(tmp_path):
    folder = made(tmp_path / "model")
    before = set(tmp_path.rglob("*"))
    for options, sentence in (
        ({"format": "onnx"}, "format is 'onnx'"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"format": "diffusers"}, "DecoderConfig"),
    ):
        with pytest.raises(InputError, match=sentence):
            fmzoo.convert(folder, tmp_path / "new", **options)
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short or damaged"):
        fmzoo.convert(folder, tmp_path / "new")
    assert set(tmp_path.rglob("*")) == before


def test_a_changed_config_is_written_as_what_computes_it(tmp_path):
    folder = made(tmp_path / "model", "phi3")
    loaded = fmzoo.load(folder)
    assert loaded.model_type == "phi3"
    config = models.replace(loaded.config, attention__qkv_bias=True, attention__out_bias=True)
    changed = pretrained(config)
    changed = models.Pretrained(changed.module, changed.params, config, model_type="phi3")
    fmzoo.save(changed, tmp_path / "new")
    assert json.loads((tmp_path / "new/config.json").read_text())["model_type"] == "llama"


def test_the_command_converts(tmp_path):
    folder = made(tmp_path / "model")
    ended = fmzoo_command("convert", folder, tmp_path / "new.gguf", "--format", "gguf-f32")
    assert (ended.status, ended.out) == (0, f"{tmp_path / 'new.gguf'} is written\n")
    assert_same(fmzoo.load(tmp_path / "new.gguf").params, fmzoo.load(folder).params)
