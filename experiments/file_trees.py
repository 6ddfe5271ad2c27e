"""Files as trees of objects, lists and values that can be changed and written again, sound or not.

A format is a pair: ``read(bytes) -> tree`` and ``write(tree) -> bytes``. What no file of the format can say, such as a
text where it has room for a number only, `write` refuses by raising one of `UNWRITABLE`.
"""

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from fmzoo.interop import gguf_format

UNWRITABLE = (
    TypeError, ValueError, OverflowError, KeyError, AttributeError, IndexError, struct.error, RecursionError,
    SystemError,  # protobuf's, of a name that is no text
)  # fmt: skip
ARRAY = "an array of flax"  # marks an extension type of msgpack in a tree
MODEL_PARTS = ("trainer_spec", "normalizer_spec", "denormalizer_spec")


class Format(NamedTuple):
    """How a file becomes a tree and a tree a file."""

    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


def _write_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


JSON = Format(json.loads, _write_json)


def _read_safetensors(content: bytes) -> Any:
    end = 8 + int.from_bytes(content[:8], "little")
    return {"header": json.loads(content[8:end]), "body": content[end:]}


def _write_safetensors(tree: Any) -> bytes:
    """The length of the header is right, so that it is read."""
    header = json.dumps(tree["header"]).encode()
    return len(header).to_bytes(8, "little") + header + tree["body"]


SAFETENSORS = Format(_read_safetensors, _write_safetensors)


def _read_msgpack(content: bytes) -> Any:
    """Arrays are lists of a mark, the code of their type, and shape, dtype and bytes."""
    return msgpack.unpackb(
        content, strict_map_key=False, ext_hook=lambda code, data: [ARRAY, code, msgpack.unpackb(data)]
    )


def _write_msgpack(tree: Any) -> bytes:
    def pack(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: pack(value) for key, value in node.items()}
        if isinstance(node, list) and len(node) == 3 and node[0] == ARRAY:
            return msgpack.ExtType(node[1], msgpack.packb(node[2]))
        return [pack(value) for value in node] if isinstance(node, list) else node

    return msgpack.packb(pack(tree))


MSGPACK = Format(_read_msgpack, _write_msgpack)


def _read_sentence_piece(content: bytes) -> Any:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto.FromString(content)
    parts = {part: {f.name: value for f, value in getattr(model, part).ListFields()} for part in MODEL_PARTS}
    return {"pieces": [[p.piece, p.score, p.type] for p in model.pieces]} | parts


def _write_sentence_piece(tree: Any) -> bytes:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    for piece, score, kind in tree["pieces"]:
        model.pieces.add(piece=piece, score=score, type=kind)
    for part in MODEL_PARTS:
        for name, value in tree[part].items():
            if isinstance(value, list):
                getattr(getattr(model, part), name).extend(value)
            else:
                setattr(getattr(model, part), name, value)
    return model.SerializeToString()


SENTENCE_PIECE = Format(_read_sentence_piece, _write_sentence_piece)


def _read_gguf(content: bytes) -> Any:
    """Keys with their values, and tensors in F32: shape (innermost axis first), number of the encoding, offset."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        metadata, tensors = gguf_format.read_file(file.name)
    first = min(tensor.start for tensor in tensors.values())
    keys = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in metadata.items()}
    table = [[name, list(t.shape[::-1]), 0, t.start - first] for name, t in tensors.items()]
    return {"version": 3, "keys": keys, "tensors": table, "body": content[first:]}


def _write_gguf(tree: Any) -> bytes:
    """The counts are right, so that the entries are read."""
    header = gguf_format.MAGIC + struct.pack("<IQQ", tree["version"], len(tree["tensors"]), len(tree["keys"]))
    for key, value in tree["keys"].items():
        header += _text(key) + _typed(value)
    for name, shape, encoding, offset in tree["tensors"]:
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, encoding, offset)
    return header + bytes(-len(header) % gguf_format.ALIGNMENT) + tree["body"]


GGUF = Format(_read_gguf, _write_gguf)


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content


def _typed(value: Any) -> bytes:
    """A value after its type, in the widest type that there is but for small numbers."""
    if isinstance(value, bool):
        return struct.pack("<I?", gguf_format.BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value) if 0 <= value < 2**32 else struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", gguf_format.STRING) + _text(value)
    start = struct.pack("<I", gguf_format.ARRAY)
    if all(isinstance(item, str) for item in value):
        return start + struct.pack("<IQ", gguf_format.STRING, len(value)) + b"".join(map(_text, value))
    code, kind = ("i", 5) if all(isinstance(item, int) for item in value) else ("f", 6)
    return start + struct.pack(f"<IQ{len(value)}{code}", kind, len(value), *value)
