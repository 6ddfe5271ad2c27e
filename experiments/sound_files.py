"""Small sound files of every kind that fmzoo reads, each in a folder of its own, and what reads them."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_trees as trees
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from sound_tokenizers import TOKENIZERS, Sound, byte_level, sentence_piece

import fmzoo
from fmzoo import models, text
from fmzoo.interop import decoder_structure, folders, gguf_files, huggingface, to_theirs
from fmzoo.models import Decoder, DecoderConfig, Pretrained, RopeConfig, replace

LEGACY = Path(__file__).parents[1] / "tests" / "data" / "legacy"
LLAMA = DecoderConfig(
    vocab_size=320, d_model=64, num_layers=2, context_length=32,
    attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16), mlp=models.MlpConfig(d_ff=48),
)  # fmt: skip
DECODERS = {
    "llama": replace(LLAMA, rope=RopeConfig(scaling="linear", factor=2.0)),
    "qwen3": replace(LLAMA, attention__qk_norm="head", rope=RopeConfig(1e6, scaling="yarn", factor=4.0)),
    "gemma3": replace(
        LLAMA, mlp__activation="gelu_tanh", norm__unit_offset=True, tied_head=True, scaled_embedding=True,
        norm__placement="both", attention__window=4, attention__qk_norm="head", pattern=("local", "global"),
        local_rope=RopeConfig(1e4), rope__theta=1e6,
    ),
    "mixtral": replace(LLAMA, experts=models.ExpertsConfig(num_experts=4, top_k=2, d_ff=24)),
}  # fmt: skip


def random_decoder(config: DecoderConfig, tokenizer: Any = None) -> Pretrained:
    """A decoder with random weights."""
    draw = np.random.default_rng(0).standard_normal
    flat = {path: draw(shape).astype(np.float32) for path, shape in decoder_structure(config).shapes.items()}
    return Pretrained(Decoder(config), unflatten_dict(flat, sep="/"), config, tokenizer, chat_template="{{ messages }}")


def load_model(folder: Path) -> None:
    """Reads what is in a folder, every number of it."""
    jax.block_until_ready(jax.tree.leaves(fmzoo.load(folder, "bfloat16").params))


def _save(folder: Path, name: str = "llama", largest: int = folders.LARGEST_SHARD) -> None:
    """A folder of transformers, in shards of so many bytes."""
    family, attributes = huggingface.write_config(DECODERS[name])
    config, params = DECODERS[name], random_decoder(DECODERS[name]).params
    tensors = to_theirs(family.mapping(config), decoder_structure(config), params)
    folders.write_tensors(folder, tensors, largest)
    (folder / "config.json").write_text(json.dumps(attributes))


def _save_gguf(folder: Path, name: str, tokenizer: Callable[[], Any]) -> None:
    gguf_files.save(random_decoder(DECODERS[name], tokenizer()), folder / "model.gguf", "F32")


def _copy(folder: Path, name: str) -> None:
    shutil.copytree(LEGACY / name, folder, dirs_exist_ok=True)


HERE = functools.partial
KINDS: dict[str, tuple[Sound, ...]] = {
    "safetensors": (Sound(_save, "model.safetensors", trees.SAFETENSORS, load_model),),
    "gguf": tuple(
        Sound(HERE(_save_gguf, name=name, tokenizer=tokenizer), "model.gguf", trees.GGUF, load_model)
        for name, tokenizer in (("llama", byte_level), ("gemma3", sentence_piece), ("qwen3", text.ByteTokenizer))
    ),
    "msgpack": tuple(
        Sound(HERE(_copy, name=name), file, trees.MSGPACK, load_model)
        for name, file in (("gpt2", "flax_model.msgpack"), ("vae", "diffusion_flax_model.msgpack"))
    ),
    "index": (
        Sound(HERE(_save, largest=20_000), "model.safetensors.index.json", trees.JSON, load_model),
        Sound(HERE(_copy, name="llama"), "flax_model.msgpack.index.json", trees.JSON, load_model),
    ),
    "config": (
        *(Sound(HERE(_save, name=name), "config.json", trees.JSON, load_model) for name in DECODERS),
        *(Sound(HERE(_copy, name=name), "config.json", trees.JSON, load_model) for name in ("gpt2", "vae")),
    ),
    "tokenizer": TOKENIZERS,
}  # fmt: skip
