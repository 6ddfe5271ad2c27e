import json
import pathlib
import re

import jax
import msgpack
import numpy as np
import pytest

import fmzoo
from fmzoo.errors import InputError
from fmzoo.interop import autoencoder, flax_msgpack, safetensors, unet
from fmzoo.interop.flax_msgpack import TEXT_WEIGHTS, WEIGHTS
from fmzoo.interop.mapping import to_ours
from fmzoo.models.autoencoder import AutoencoderKL
from fmzoo.models.unet import UNet
from tests.interop.test_pipelines import SD, make

LEGACY = pathlib.Path(__file__).parents[1] / "data" / "legacy"


def read(name):
    config = flax_msgpack.read_config(json.loads((LEGACY / name / "config.json").read_text()))
    recorded = dict(np.load(LEGACY / f"{name}.npz"))
    return config, flax_msgpack.read_file(LEGACY / name / flax_msgpack.WEIGHTS), recorded


def pictures(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def test_a_unet_computes_what_its_flax_class_computed():
    values, tensors, recorded = read("unet")
    config = unet.read_unet(values)
    params = to_ours(unet.unet_table(config), unet.unet_structure(config), tensors)
    sample = np.moveaxis(recorded["sample"], 1, -1)
    apply = jax.jit(UNet(config).apply)
    found = apply({"params": params}, sample, recorded["times"], recorded["context"])
    # the Flax class adds 1e-5 to variances where torch's and ours add 1e-6
    np.testing.assert_allclose(pictures(found), recorded["output"], atol=1e-4, rtol=1e-4)


def test_an_autoencoder_computes_what_its_flax_class_computed():
    values, tensors, recorded = read("vae")
    config = autoencoder.read_config(values)
    params = to_ours(autoencoder.table(config), autoencoder.structure(config), tensors)
    module = AutoencoderKL(config)

    @jax.jit
    def run(params, image):
        mean, logvar = module.apply({"params": params}, image, method="encode")
        return mean, logvar, module.apply({"params": params}, mean, method="decode")

    found = run(params, np.moveaxis(recorded["image"], 1, -1))
    for x, name in zip(found, ("mean", "logvar", "decoded"), strict=True):
        needed = recorded[name] if name == "decoded" else pictures(recorded[name])
        np.testing.assert_allclose(pictures(x), needed, atol=2e-5, rtol=2e-5)


def test_every_array_of_a_file_is_read_once():
    _, tensors, _ = read("vae")
    assert len(tensors) == len({id(x) for x in tensors.values()})
    assert tensors["encoder.mid_block.attentions.0.query.weight"].shape == (12, 12)
    assert tensors["decoder.up_blocks.0.upsamplers.0.conv.weight"].shape == (12, 12, 3, 3)


def pack(tree):
    def default(x):
        return msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes())))

    return msgpack.packb(tree, default=default)


def array(shape, name="float32", count=None):
    count = 4 * int(np.prod(shape)) if count is None else count
    return msgpack.packb({"conv_in": {"kernel": msgpack.ExtType(1, msgpack.packb((shape, name, b"\0" * count)))}})


KERNEL = np.ones((2, 3), np.float32)
DAMAGED = {
    "empty": b"",
    "cut": pack({"conv_in": {"kernel": KERNEL}})[:-3],
    "more": pack({"conv_in": {"kernel": KERNEL}}) + b"\0",
    "no tree": pack(3),
    "number": pack({"conv_in": {"kernel": 3}}),
    "outside": pack({"kernel": KERNEL}),
    "parameter": pack({"conv_in": {"mean": KERNEL}}),
    "integers": pack({"conv_in": {"kernel": np.ones(3, np.int32)}}),
    "objects": array((2,), "object", 16),
    "bytes": array((2, 3), count=20),
    "negative": array((-2, -3), count=24),
    "vast": array((2**40, 2**40), count=24),
    "axes": array((1,) * 40, count=4),
    "extension": msgpack.packb({"conv_in": {"kernel": msgpack.ExtType(2, b"12")}}),
    "deep": b"\x81\xa1a" * 100_000 + b"\x01",
    "keys": msgpack.packb({1: {"kernel": 2}}),
    "twice": b"\x82" + 2 * (msgpack.packb("conv_in") + pack({"kernel": KERNEL})),
    "pieces": msgpack.packb({"conv_in": {"kernel": {"__msgpack_chunked_array__": True, "shape": {"0": 3}}}}),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_in_a_sentence(tmp_path, name):
    (tmp_path / "x.msgpack").write_bytes(DAMAGED[name])
    with pytest.raises(InputError) as error:
        flax_msgpack.read_file(tmp_path / "x.msgpack")
    assert len(str(error.value).replace(str(tmp_path), "")) < 300


def test_arrays_in_pieces_are_joined(tmp_path):
    pieces = {"0": np.arange(4, dtype=np.float32), "1": np.arange(4, 6, dtype=np.float32)}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3}, "chunks": pieces}
    (tmp_path / "x.msgpack").write_bytes(pack({"conv_in": {"kernel": chunked}}))
    found = flax_msgpack.read_file(tmp_path / "x.msgpack")
    np.testing.assert_array_equal(found["conv_in.weight"], np.arange(6).reshape(2, 3).T)


def test_another_class_is_refused():
    with pytest.raises(InputError, match="_class_name 'FlaxControlNetModel'"):
        flax_msgpack.read_config({"_class_name": "FlaxControlNetModel"})


def test_tables_of_text_encoders_keep_their_layout(tmp_path):
    tree = {"text_model": {"embeddings": {"token_embedding": {"embedding": KERNEL}}}}
    (tmp_path / "flax_model.msgpack").write_bytes(pack(tree))
    path = flax_msgpack.find(tmp_path)
    found = flax_msgpack.read_file(path)
    np.testing.assert_array_equal(found["text_model.embeddings.token_embedding.weight"], KERNEL)
    (tmp_path / "model.safetensors").touch()
    assert flax_msgpack.find(tmp_path) is None


def as_flax(tensors):
    """The tree that a Flax class would have stored, from tensors of its torch class."""
    tree = {}
    for name, x in tensors.items():
        *parents, last = re.sub(rf"({NUMBERED})\.(\d+)\.", r"\1_\2.", name).split(".")
        at, x = tree, np.asarray(x)
        for parent in parents:
            at = at.setdefault(parent, {})
        kinds = {True: "embedding", False: "kernel" if x.ndim > 1 else "scale"}
        last = last if last == "bias" else kinds["embedding" in parents[-1] and "time" not in parents[-1]]
        axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(x.ndim) if last == "kernel" else None
        at[last] = x if axes is None else x.transpose(axes)
    return tree


MODELS = ("gpt2", "gptj", "opt", "llama", "gemma", "mistral")


@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_computes_what_its_flax_class_computed(name):
    model, recorded = fmzoo.load(LEGACY / name), dict(np.load(LEGACY / f"{name}.npz"))
    found = jax.jit(model.module.apply)({"params": model.params}, recorded["tokens"])
    assert recorded["logits"].std() > 0.3
    np.testing.assert_allclose(found, recorded["logits"], atol=2e-5, rtol=2e-5)
    again = {"params": jax.tree.map(lambda x: x, model.params) | {"embed": np.roll(model.params["embed"], 1, axis=0)}}
    assert np.abs(model.module.apply(again, recorded["tokens"]) - recorded["logits"]).max() > 0.1


def test_half_of_the_numbers_stay_what_they_were():
    stored = flax_msgpack.read_folder(LEGACY / "gemma")["model.norm.weight"]
    assert stored.dtype.name == "bfloat16"
    np.testing.assert_array_equal(fmzoo.load(LEGACY / "gemma").params["final_norm"]["scale"], stored.astype(np.float32))


def test_shards_that_do_not_fit_their_index_are_refused(tmp_path):
    files = sorted(path for path in (LEGACY / "llama").iterdir())
    index = json.loads((LEGACY / "llama" / flax_msgpack.INDEX).read_text())
    names = list(index["weight_map"])
    assert len(set(index["weight_map"].values())) > 2
    other = {names[0]: index["weight_map"][names[-1]]}
    gone = {name: file.replace("-00003-", "-99999-") for name, file in index["weight_map"].items()}
    for number, (change, sentence) in enumerate(
        [
            ({"weight_map": index["weight_map"] | other}, "and its index disagree on"),
            ({"weight_map": index["weight_map"] | {names[0]: "../x.msgpack"}}, "a msgpack file in the same folder"),
            ({"weight_map": gone}, "lacks 'flax_model-99999-of-00003.msgpack', which its index names"),
            ({"weight_map": [names[0]]}, "has no weight_map of names to files"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in files:
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / flax_msgpack.INDEX).write_text(json.dumps(change))
        with pytest.raises(InputError, match=sentence):
            fmzoo.load(folder)


def test_safetensors_are_taken_before_flax(tmp_path):
    model = fmzoo.load(LEGACY / "opt")
    fmzoo.save(model, tmp_path / "both")
    (tmp_path / "both" / TEXT_WEIGHTS).write_bytes(b"no msgpack")
    jax.tree.map(np.testing.assert_array_equal, fmzoo.load(tmp_path / "both").params, model.params)


NUMBERED = "down_blocks|up_blocks|resnets|attentions|transformer_blocks|downsamplers|upsamplers|net|to_out"


def test_a_pipeline_written_from_flax_loads_as_that_of_torch(tmp_path):
    fmzoo.save(make(SD, tmp_path / "tokens"), tmp_path / "sd", format="diffusers")
    needed = fmzoo.load(tmp_path / "sd")
    for part, file in {"unet": WEIGHTS, "vae": WEIGHTS, "text_encoder": TEXT_WEIGHTS}.items():
        (weights,) = (tmp_path / "sd" / part).glob("*.safetensors")
        (tmp_path / "sd" / part / file).write_bytes(pack(as_flax(safetensors.read_file(weights))))
        weights.unlink()
    for name in ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        values = json.loads((tmp_path / "sd" / name).read_text())
        values = {
            k: [v[0], f"Flax{v[1]}"] if isinstance(v, list) and v[0] == "diffusers" else v for k, v in values.items()
        }
        (tmp_path / "sd" / name).write_text(json.dumps(values | {"_class_name": f"Flax{values['_class_name']}"}))
    found = fmzoo.load(tmp_path / "sd")
    assert found.config == needed.config
    jax.tree.map(np.testing.assert_array_equal, found.params, needed.params)
