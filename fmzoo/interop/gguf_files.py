"""Models in GGUF files, which hold weights, config, tokenizer and chat template in one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from fmzoo.errors import InputError, nearest
from fmzoo.interop import folders, huggingface
from fmzoo.interop.family import Family
from fmzoo.interop.gguf_architectures import ARCHITECTURES
from fmzoo.interop.gguf_format import ALIGNMENT, block_size, write_file
from fmzoo.interop.gguf_names import Architecture, from_transformers, read_attributes, to_transformers, write_keys
from fmzoo.interop.gguf_parts import ENDING, find, read_parts
from fmzoo.interop.gguf_rope import FACTORS, make_factors, narrow, read_factors
from fmzoo.interop.gguf_tokenizer_writing import write_tokenizer
from fmzoo.interop.gguf_tokenizers import read_stops, read_tokenizer
from fmzoo.interop.mapping import to_ours, to_theirs
from fmzoo.interop.network import differences
from fmzoo.interop.stored import Stored, as_jax
from fmzoo.interop.structure import decoder_structure
from fmzoo.models import Decoder, DecoderConfig, Pretrained

__all__ = ["ENDING", "find", "load", "read_config", "save"]

FILE = "model" + ENDING
TEMPLATE = "tokenizer.chat_template"
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}  # general.file_type, of most of a file's tensors


def load(path: epath.PathLike, dtype: Any = "float32", place: Callable[[str, Stored], Any] = as_jax) -> Pretrained:
    """Loads a GGUF file.

    Args:
      path: the file, or one part of several that stand beside it; may be remote.
      dtype: what the parameters are dequantised to; None is float32.
      place: as in `fmzoo.interop.to_ours`.

    Returns:
      The model, with the tokenizer, the chat template and the ids that end an answer that the file has.

    Raises:
      InputError: the file is damaged, its architecture or one of its keys is unknown, or it does not hold the weights
        of its config, all of them and no others.
    """
    metadata, tensors = read_parts(path)
    architecture, family, attributes, config = _parse_config(metadata, tensors, str(path))
    renamed = to_transformers(architecture, family, attributes, tensors)
    tokenizer = read_tokenizer(metadata, str(path))
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{path} has {tokenizer.vocab_size} tokens for an embedding of {config.vocab_size}; at most as many fit"
        )
    params = to_ours(family.table, decoder_structure(config), renamed, dtype, place)
    template = metadata.get(TEMPLATE)
    return Pretrained(
        Decoder(config), params, config, tokenizer, template if isinstance(template, str) else None,
        read_stops(metadata, config.vocab_size), family.model_type,
    )  # fmt: skip


def read_config(path: epath.PathLike) -> tuple[str, DecoderConfig]:
    """The architecture and the config of a file, of whose weights only the shapes are looked at.

    Raises:
      InputError: as `load`.
    """
    architecture, _, _, config = _parse_config(*read_parts(path), str(path))
    return architecture.name, config


def save(pretrained: Pretrained, path: epath.PathLike, encoding: str = "F16") -> None:
    """Writes a GGUF file, completely or not at all: matrices in one encoding, norms and biases in float32.

    Args:
      pretrained: a decoder; its tokenizer, chat template and stop ids go along.
      path: a name that ends in ``.gguf`` and is not there yet, or a new folder for `model.gguf`; may be remote.
      encoding: F32, F16 or Q8_0; Q8_0 leaves matrices whose rows are no whole blocks of 32 in F16.

    Raises:
      InputError: no architecture of GGUF computes what the config says, GGUF cannot hold the tokenizer or a parameter,
        or the path is taken or cannot be written.
    """
    path = epath.Path(path)
    metadata, tensors = _prepare(pretrained, encoding)
    if path.suffix == ENDING:
        with folders.new_file(path) as file:
            write_file(file, metadata, tensors)
    else:
        with folders.new_folder(path) as inside:
            write_file(inside / FILE, metadata, tensors)


def _parse_config(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], source: str
) -> tuple[Architecture, Family, dict[str, Any], DecoderConfig]:
    """The architecture, and what it stands for in transformers."""
    name = str(metadata.get("general.architecture"))[:60]
    if name not in ARCHITECTURES:
        raise InputError(f"{source} has the architecture {name!r}, which is not known; {nearest(name, ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    attributes = read_attributes(architecture, metadata, shapes, source)
    if FACTORS in tensors:
        if attributes["rope_scaling"] is not None or shapes[FACTORS] != (attributes["head_dim"] // 2,):
            raise InputError(f"{source} has {FACTORS} of shape {shapes[FACTORS]} that does not fit its keys")
        factors = np.asarray(tensors[FACTORS])
        attributes["rope_scaling"] = read_factors(factors, attributes["rope_theta"], attributes["head_dim"])
    family, config = huggingface.read_config(attributes, source)
    return architecture, family, attributes, config


def _prepare(pretrained: Pretrained, encoding: str) -> tuple[dict[str, Any], dict[str, tuple[str, Any]]]:
    """The metadata and the tensors to be written, each with its encoding."""
    config = pretrained.config
    if encoding not in FILE_TYPES or not isinstance(config, DecoderConfig):
        raise InputError(f"a {type(config).__name__} in {encoding} is no GGUF; a DecoderConfig in F32, F16 or Q8_0 is")
    architecture, family, attributes = _write_config(config, pretrained.model_type)
    theirs = to_theirs(family.table, decoder_structure(config), pretrained.params)
    tensors = from_transformers(architecture, family, attributes, theirs)
    metadata = {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.alignment": ALIGNMENT,
        "general.file_type": FILE_TYPES[encoding],
        "general.quantization_version": 2,
        **write_keys(architecture, attributes),
        **write_tokenizer(pretrained.tokenizer, config.vocab_size),
    }
    if pretrained.chat_template is not None:
        metadata[TEMPLATE] = pretrained.chat_template
    metadata |= _write_stops(pretrained)
    encoded = {name: (_encoding(tensor.shape, encoding), tensor) for name, tensor in tensors.items()}
    return metadata, encoded | _write_factors(attributes)


def _write_config(config: DecoderConfig, first: str | None) -> tuple[Architecture, Family, dict[str, Any]]:
    """The first architecture that computes what a config says: tried by writing it, reading that, and comparing.

    That of the family ``first`` is tried before the others.
    """
    failures: list[tuple[int, str]] = []
    for architecture in sorted(ARCHITECTURES.values(), key=lambda one: one.model_type != first):
        family = huggingface.FAMILIES[architecture.model_type]
        try:
            attributes = family.write(config)
            read_back = _read_back(architecture, attributes, config)
            lost = differences(_narrow(config), _narrow(read_back))
        except InputError as error:
            failures.append((1000, f"{architecture.name}: {error}"))
            continue
        if not lost:
            return architecture, family, attributes
        failures.append((len(lost), f"{architecture.name} cannot hold {', '.join(lost[:4])}"))
    raise InputError(f"no architecture of GGUF computes this config: the nearest, {min(failures)[1]}"[:290])


def _narrow(value: Any) -> Any:
    """A config with the digits of its numbers that a file holds."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _narrow(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return narrow(value) if isinstance(value, float) else value


def _read_back(architecture: Architecture, attributes: dict[str, Any], config: DecoderConfig) -> DecoderConfig:
    """The config that a file with these attributes would be read as."""
    metadata = {"general.architecture": architecture.name, **write_keys(architecture, attributes)}
    a, width = config.attention, config.d_model
    shapes = {
        "token_embd.weight": (config.vocab_size, width),
        "blk.0.attn_q.weight": (a.num_heads * a.head_dim, width),
        "blk.0.attn_k.weight": (a.num_kv_heads * a.head_dim, width),
        "blk.0.ffn_up.weight": (config.mlp.d_ff, width),
    }
    if not config.tied_head:
        shapes["output.weight"] = shapes["token_embd.weight"]
    if a.out_bias:
        shapes["blk.0.attn_output.bias"] = (width,)
    if config.mlp.bias:
        shapes["blk.0.ffn_down.bias"] = (width,)
    tensors: dict[str, Any] = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    tensors |= {name: array for name, (_, array) in _write_factors(attributes).items()}
    return _parse_config(metadata, tensors, architecture.name)[3]


def _write_factors(attributes: dict[str, Any]) -> dict[str, tuple[str, np.ndarray]]:
    scaling = attributes["rope_scaling"]
    if scaling is None or scaling["rope_type"] != "llama3":
        return {}
    return {FACTORS: ("F32", make_factors(scaling, attributes["rope_theta"], attributes["head_dim"]))}


def _write_stops(pretrained: Pretrained) -> dict[str, int]:
    """The ids that end an answer besides the tokenizer's eos; there is room for two."""
    eos = getattr(pretrained.tokenizer, "eos_id", None)
    others = [i for i in pretrained.stop_ids if i != eos]
    names = ("eot", "eom") if eos is not None else ("eos", "eot", "eom")
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in zip(names, others, strict=False)}


def _encoding(shape: tuple[int, ...], encoding: str) -> str:
    """The encoding of a tensor: vectors stay whole, and rows that are no whole blocks are halved."""
    if len(shape) == 1:
        return "F32"
    return encoding if shape[-1] % block_size(encoding)[0] == 0 else "F16"
