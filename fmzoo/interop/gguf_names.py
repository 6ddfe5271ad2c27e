"""What llama.cpp calls things: the keys of an architecture, its tensors, and what its converter does to a tensor.

A GGUF file is read as if it were a folder of transformers: its keys become the attributes of a `config.json`, its
tensors those of the family's table. The names of tensors come from the `gguf` package.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fmzoo.errors import InputError
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.family import MOST_LAYERS, Family
from fmzoo.interop.gguf_rope import FACTORS, read_scaling, write_scaling

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp.

    Attributes:
      name: ``general.architecture``, which also begins its keys.
      model_type: the family of transformers that computes the same.
      read: adds to the attributes what only this architecture has, given its keys.
      write: the keys besides those that all have, from attributes.
      interleaved: queries and keys turn in pairs (2i, 2i + 1), so their rows are stored in another order.
      offset: norms are stored as ``1 + w``.
    """

    name: str
    model_type: str
    read: Callable[[Attributes, Values], Values] = lambda a, attributes: {}
    write: Callable[[Values], Values] = lambda attributes: {}
    interleaved: bool = False
    offset: bool = False


def read_attributes(
    architecture: Architecture, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: str
) -> Values:
    """The content of the `config.json` that a file's keys and the shapes of its tensors stand for.

    Raises:
      InputError: a key is missing, unknown, or has a value that cannot be.
    """
    start = f"{architecture.name}."
    keys = {
        key.removeprefix(start): value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in metadata.items()
        if key.startswith(start)
    }
    a = Attributes(keys, {"rope.freq_base": 10_000.0}, f"{path} ({architecture.name})")
    width, heads = a.integer("embedding_length"), a.integer("attention.head_count")
    head_dim = a.integer("attention.key_length", optional=True) or max(width // heads, 1)
    for name in ("attention.value_length", "rope.dimension_count"):
        a.demand(name, head_dim)
    a.take("tensor_data_layout", str, optional=True)  # old files name the one that there is
    vocabulary = shapes.get("token_embd.weight", (a.integer("vocab_size", optional=True),))[0]
    a.demand("vocab_size", vocabulary)
    attributes = {
        "model_type": architecture.model_type,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "head_dim": head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": a.integer("attention.head_count_kv", optional=True) or heads,
        "num_hidden_layers": a.integer("block_count", most=MOST_LAYERS),
        "intermediate_size": a.integer("feed_forward_length"),
        "max_position_embeddings": a.integer("context_length"),
        "rms_norm_eps": a.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": a.number("rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in shapes,
        "rope_scaling": read_scaling(a),
    }
    _check_rows(attributes, shapes, path)
    for part, name in (("attn_output", "attention_bias"), ("ffn_down", "mlp_bias")):
        if f"blk.0.{part}.bias" in shapes:
            attributes[name] = True
    attributes |= architecture.read(a, attributes)
    for name in ("expert_count", "expert_used_count"):
        a.demand(name, 0)
    a.close()
    return attributes


def _check_rows(attributes: Values, shapes: Mapping[str, tuple[int, ...]], path: str) -> None:
    """Refuses sizes that the tensors do not have, before anything is made of them."""
    needed = {
        "token_embd": (attributes["vocab_size"], attributes["hidden_size"]),
        "blk.0.attn_q": (attributes["num_attention_heads"] * attributes["head_dim"], attributes["hidden_size"]),
        "blk.0.attn_k": (attributes["num_key_value_heads"] * attributes["head_dim"], attributes["hidden_size"]),
        "blk.0.ffn_up": (attributes["intermediate_size"], attributes["hidden_size"]),
    }
    for name, shape in needed.items():
        if shapes.get(f"{name}.weight") != shape:
            found = shapes.get(f"{name}.weight", "nothing")
            raise InputError(f"{path} has {found} at {name}.weight; its keys need {str(shape)[:60]}")


def write_keys(architecture: Architecture, attributes: Values) -> Values:
    """The keys of a `config.json`, all in front of the architecture's name."""
    head_dim = attributes["head_dim"]
    keys = {
        "context_length": attributes["max_position_embeddings"],
        "embedding_length": attributes["hidden_size"],
        "block_count": attributes["num_hidden_layers"],
        "feed_forward_length": attributes["intermediate_size"],
        "attention.head_count": attributes["num_attention_heads"],
        "attention.head_count_kv": attributes["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": attributes["rms_norm_eps"],
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(attributes["rope_theta"]),
        "vocab_size": attributes["vocab_size"],
        **write_scaling(attributes["rope_scaling"]),
        **architecture.write(attributes),
    }
    return {f"{architecture.name}.{key}": value for key, value in keys.items()}


def name_tensors(architecture: Architecture, family: Family) -> dict[str, str]:
    """Names of a family's tensors here, each with its name in transformers, both with ``{i}`` for the layer."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture.name)
    names, found = get_tensor_name_map(number, 1), {}
    for row in family.table.rows:
        for theirs in (row.theirs,) if isinstance(row.theirs, str) else row.theirs:
            here = names.get_name(theirs.format(i=0), try_suffixes=(".weight", ".bias"))
            if here is not None:
                found[here.replace("blk.0.", "blk.{i}.")] = theirs
    return found


class Changed:
    """A tensor, changed when ``numpy.asarray`` asks for it into another of the same shape."""

    dtype = np.dtype(np.float32)

    def __init__(self, tensor: Any, change: Callable[[np.ndarray], np.ndarray]):
        self._tensor, self._change = tensor, change
        self.shape = tensor.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the tensor."""
        array = self._change(np.asarray(self._tensor))
        return array if dtype is None else array.astype(dtype)


def to_transformers(
    architecture: Architecture, family: Family, attributes: Values, tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """A file's tensors by the names, and in the layout, that transformers has."""
    return _rename(architecture, name_tensors(architecture, family), attributes, tensors, _split_pairs, -1)


def from_transformers(
    architecture: Architecture, family: Family, attributes: Values, tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """The tensors of a file; the inverse of `to_transformers`."""
    names = {theirs: here for here, theirs in name_tensors(architecture, family).items()}
    return _rename(architecture, names, attributes, tensors, _join_pairs, 1)


def _rename(
    architecture: Architecture,
    names: Mapping[str, str],
    attributes: Values,
    tensors: Mapping[str, Any],
    turn: Callable[[np.ndarray, int], np.ndarray],
    sign: int,
) -> dict[str, Any]:
    heads = {"query": attributes["num_attention_heads"], "key": attributes["num_key_value_heads"]}
    renamed = {}
    for name, tensor in tensors.items():
        if name == FACTORS:
            continue
        layer = re.search(r"\.(\d+)\.", name)
        pattern = name.replace(layer[0], ".{i}.", 1) if layer else name
        if pattern not in names:
            raise InputError(f"the tensor {name[:80]!r} is not expected of {architecture.name}")
        pattern, both = names[pattern], f"{name} {names[pattern]}"
        if architecture.interleaved and (kind := re.search(r"attn_([qk])\.", both)):
            count = heads["query" if kind[1] == "q" else "key"]
            _check_pairs(name, tensor, count)
            tensor = Changed(tensor, functools.partial(turn, heads=count))
        if architecture.offset and "norm" in pattern:
            tensor = Changed(tensor, functools.partial(np.add, np.float32(sign)))
        renamed[pattern.format(i=layer and layer[1])] = tensor
    return renamed


def _check_pairs(name: str, tensor: Any, heads: int) -> None:
    if tensor.shape[0] % (2 * heads):
        raise InputError(f"the tensor {name} has {tensor.shape[0]} rows for {heads} heads; pairs of rows are needed")


def _split_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head in pairs (2i, 2i + 1) to halves (i, i + H / 2)."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _join_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `_split_pairs`."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
