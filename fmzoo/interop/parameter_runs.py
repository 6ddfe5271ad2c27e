"""The decoder of a run's folder, and a decoder as such a folder, its parameters the only checkpoint (Orbax)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

import fmzoo
from fmzoo import text
from fmzoo.errors import InputError
from fmzoo.interop import folders
from fmzoo.interop.config_json import from_json, to_json
from fmzoo.interop.run_checkpoints import CHECKPOINTS, read_adapters
from fmzoo.interop.structure import decoder_structure
from fmzoo.models import Decoder, DecoderConfig, Pretrained, join
from fmzoo.parallel import Rules
from fmzoo.text.files import write_json

FINETUNE = "finetune_text"  # the stage whose run folders may hold adapters alone
STAGE = "parameters"  # what a folder that `save` wrote calls itself, where a run names its stage
SAID = ("chat_template", "model_type")  # what a source may say of itself


def load(
    folder: epath.Path,
    values: dict[str, Any],
    dtype: Any,
    average: bool = False,
    split: tuple[Mesh, Rules] | None = None,
) -> Pretrained:
    """The newest complete checkpoint of a run.

    Args:
      folder: of the run.
      values: of ``config.json`` there.
      dtype: of the parameters; None is what they have.
      average: take the moving average.
      split: the mesh that the parameters are put on and the rules for it, reading what this process's devices need.

    Raises:
      InputError: the config or the checkpoint is damaged, or they do not fit each other.
    """
    from fmzoo.train import checkpoints

    config = from_json(DecoderConfig, values.get("model"), "model")
    params, step = checkpoints.load_params(folder / CHECKPOINTS, average=average, split=split)
    check_shapes(params, config, folder / CHECKPOINTS / str(step))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    without = values.get("stage") == STAGE and not (folder / "tokenizer").exists()
    tokenizer = None if without else text.load_tokenizer(folder / "tokenizer")
    return Pretrained(Decoder(config), params, config, tokenizer, **_said(values))


def load_adapters(folder: epath.Path, values: dict[str, Any], base: Pretrained, average: bool) -> Pretrained:
    """The newest adapters of a fine-tuning run, as nodes over the model that they were trained on.

    Args:
      folder: of the run.
      values: of ``config.json`` there.
      base: what its ``source`` gives.
      average: take the moving average.

    Raises:
      InputError: the config or the checkpoint is damaged, or they do not fit each other.
    """
    adapters, scale = read_adapters(folder, values, base.params, average)
    return dataclasses.replace(base, params=join(base.params, adapters, scale), **_said(values))


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """What a run's config says of its source."""
    stops = values.get("stop_ids")
    said: dict[str, Any] = {name: values[name] for name in SAID if isinstance(values.get(name), str)}
    return said | {"stop_ids": tuple(i for i in stops if type(i) is int) if isinstance(stops, list) else ()}


def save(pretrained: Pretrained, folder: epath.PathLike) -> None:
    """Writes a decoder as the folder of a run, completely or not at all; what reads runs reads it.

    Args:
      pretrained: the model; its parameters are written in the dtype that they have.
      folder: a folder that is not there or empty; may be remote.

    Raises:
      InputError: it is no decoder, the folder holds something, or it cannot be written.
    """
    from fmzoo.train import Checkpoints

    config, tokenizer = pretrained.config, pretrained.tokenizer
    if not isinstance(config, DecoderConfig):
        raise InputError(f"format is 'orbax' and the model is a {type(config).__name__}; a decoder of text is needed")
    values = {"fmzoo": fmzoo.__version__, "stage": STAGE, "model": to_json(config), "stop_ids": pretrained.stop_ids}
    values |= {name: getattr(pretrained, name) for name in SAID if getattr(pretrained, name) is not None}
    check_shapes(pretrained.params, config, folder)
    with folders.new_folder(folder) as inside:
        with Checkpoints(inside / CHECKPOINTS) as checkpoints:
            checkpoints.save(0, {"params": pretrained.params}, {})
        if tokenizer is not None:
            tokenizer.save(inside / "tokenizer")
        write_json(inside / "config.json", values)


def check_shapes(params: Any, config: DecoderConfig, where: epath.PathLike) -> None:
    """Refuses parameters that are not those of the config beside them.

    Raises:
      InputError: a shape differs, or a parameter is missing or surplus.
    """
    found = {name: getattr(leaf, "shape", type(leaf)) for name, leaf in flatten_dict(params, sep="/").items()}
    needed = decoder_structure(config).shapes
    for name in sorted({*found, *needed}):
        if found.get(name) != needed.get(name):
            there, here = found.get(name, "nothing"), needed.get(name, "nothing")
            raise InputError(f"checkpoint {where} has {there} at {name}; config.json beside it needs {here}")
