"""Folders of transformers: `config.json`, safetensors, and a tokenizer if there is one."""

from collections.abc import Callable
from typing import Any

from etils import epath

from fmzoo import text
from fmzoo.errors import InputError, nearest
from fmzoo.interop import (
    bloom,
    deepseek,
    flax_msgpack,
    folders,
    gemma,
    generation_files,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    llama,
    mixture,
    olmo2,
    opt,
    phi,
    smollm3,
    xglm,
)
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import Family
from fmzoo.interop.mapping import to_ours, to_theirs
from fmzoo.interop.network import differences
from fmzoo.interop.stored import Stored, as_jax
from fmzoo.interop.structure import decoder_structure
from fmzoo.models import Decoder, DecoderConfig, Pretrained
from fmzoo.text.files import read_json, write_json

ROOMS = (llama, gemma, gpt2, gpt_neox, gptj, gpt_neo, opt, bloom, xglm, phi, olmo2, smollm3, mixture, deepseek)
FAMILIES = {family.model_type: family for room in ROOMS for family in room.FAMILIES}


def load(folder: epath.PathLike, dtype: Any = "float32", place: Callable[[str, Stored], Any] = as_jax) -> Pretrained:
    """Loads a folder that transformers' `save_pretrained` wrote.

    Args:
      folder: with `config.json`, safetensors or, of a Flax class, `flax_model.msgpack`, and perhaps a tokenizer; may be
        remote.
      dtype: what the parameters are stored in, whatever the files hold; None is what they hold.
      place: as in `fmzoo.interop.to_ours`.

    Returns:
      The model, with the tokenizer, the chat template and the ids that end an answer that the folder has. Its config
      computes in float32 until told otherwise.

    Raises:
      InputError: the family or an attribute of the config is unknown, or the files do not hold its weights, all of
        them and no others.
    """
    folder = epath.Path(folder)
    if not (folder / "config.json").exists():
        folders.refuse_pickles(sorted(folder.iterdir()))
        raise InputError(f"{folder} holds no config.json; a folder that transformers' save_pretrained wrote is needed")
    family, config = read_config(read_json(folder / "config.json"), str(folder / "config.json"))
    read_tensors = flax_msgpack.read_folder if flax_msgpack.holds_model(folder) else folders.read_tensors
    params = to_ours(family.mapping(config), decoder_structure(config), read_tensors(folder), dtype, place)
    tokenizer, (template, stops) = text.load_tokenizer(folder), generation_files.read(folder, config.vocab_size)
    return Pretrained(Decoder(config), params, config, tokenizer, template, stops, family.model_type)


def save(pretrained: Pretrained, folder: epath.PathLike, model_type: str | None = None) -> None:
    """Writes a folder that transformers 4 and 5 load, completely or not at all.

    Args:
      pretrained: the model; its parameters are written in the dtype that they have.
      folder: a folder that is not there or empty; may be remote.
      model_type: the family to write it as, such as ``phi3``; None is the one that it was loaded as, or if its config
        was changed into what that does not compute, the first that does.

    Raises:
      InputError: no family of transformers computes what the config says, a parameter is no plain array, the folder
        holds something, or it cannot be written.
    """
    family, attributes = write_config(pretrained.config, model_type, pretrained.model_type)
    tensors = to_theirs(family.mapping(pretrained.config), decoder_structure(pretrained.config), pretrained.params)
    attributes["torch_dtype"] = str(next(iter(tensors.values())).dtype)
    tokenizer = pretrained.tokenizer
    for role in ("bos", "eos", "pad"):
        attributes[f"{role}_token_id"] = getattr(tokenizer, f"{role}_id", None)
    with folders.new_folder(folder) as inside:
        folders.write_tensors(inside, tensors)
        if tokenizer is not None:
            tokenizer.save(inside)
        generation_files.write(inside, pretrained)
        write_json(inside / "config.json", attributes)


def read_config(values: dict[str, Any], source: str = "config.json") -> tuple[Family, DecoderConfig]:
    """The family and the config that the content of a `config.json` stands for.

    Raises:
      InputError: the family or an attribute is unknown, or a value cannot be.
    """
    model_type = str(values.get("model_type"))[:60]
    if model_type not in FAMILIES:
        raise InputError(f"{source} has model_type {model_type!r}, which is not known; {nearest(model_type, FAMILIES)}")
    family = FAMILIES[model_type]
    attributes = Attributes(values, family.defaults, source)
    config = family.read(attributes)
    attributes.close()
    return family, config


def write_config(
    config: DecoderConfig, model_type: str | None = None, first: str | None = None
) -> tuple[Family, dict[str, Any]]:
    """The first family that computes what a config says, or the one named, and the content of its `config.json`.

    A family is tried by writing the config, reading that back, and comparing.

    Args:
      config: of a decoder.
      model_type: the only family that will do.
      first: the family that is tried before the others.

    Raises:
      InputError: there is none, or the one named does not.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise InputError(f"model_type is {model_type[:60]!r}; {nearest(model_type, FAMILIES)}")
    failures: list[tuple[int, str]] = []
    tried = sorted(FAMILIES.values(), key=lambda family: family.model_type != first)  # else in their order
    for family in tried if model_type is None else (FAMILIES[model_type],):
        if family.write is None:
            continue
        try:
            attributes = family.write(config) | {
                "model_type": family.model_type,
                "architectures": [family.architecture],
            }
            lost = differences(config, read_config(attributes)[1])
        except InputError as error:
            failures.append((1000, f"{family.model_type}: {error}"))
            continue
        if not lost:
            return family, attributes
        failures.append((len(lost), f"{family.model_type} cannot hold {', '.join(lost[:4])}"))
    nearest_one = min(failures, default=(0, f"{model_type}, is only read"))[1]
    raise InputError(f"no family of transformers computes this config: the nearest, {nearest_one}")
