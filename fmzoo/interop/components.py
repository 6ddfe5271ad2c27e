"""The networks that diffusers' folders are made of: how each class's config and weights are read and written."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from fmzoo.errors import InputError, nearest
from fmzoo.interop import autoencoder, clip_text, dit, flax_msgpack, folders, mmdit, t5, unet
from fmzoo.interop.mapping import Table, to_ours, to_theirs
from fmzoo.interop.structure import Structure
from fmzoo.models import Pretrained
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL
from fmzoo.models.clip_text import ClipText, ClipTextConfig
from fmzoo.models.dit import DiT, DiTConfig
from fmzoo.models.mmdit import MMDiT, MMDiTConfig
from fmzoo.models.t5 import T5Config, T5Encoder
from fmzoo.models.unet import UNet
from fmzoo.models.unet_config import UNetConfig
from fmzoo.text.files import read_json, write_json

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # what the two call a file of weights


class Kind(NamedTuple):
    """A class of networks.

    Attributes:
      module: ours.
      read: the config that the content of a `config.json` stands for.
      write: the content of a `config.json`.
      table: the mapping of the weights of a config.
      structure: of the parameters of a config.
      weights: what a file of weights is called.
    """

    module: Any
    read: Callable[[dict[str, Any], str], Any]
    write: Callable[[Any], dict[str, Any]]
    table: Callable[[Any], Table]
    structure: Callable[[Any], Structure]
    weights: str

    @property
    def library(self) -> str:
        """Which of the two has the class."""
        return "diffusers" if self.weights == DIFFUSERS else "transformers"


KINDS: dict[type, Kind] = {
    UNetConfig: Kind(UNet, unet.read_unet, unet.write_unet, unet.unet_table, unet.unet_structure, DIFFUSERS),
    AutoencoderConfig: Kind(
        AutoencoderKL, autoencoder.read_config, autoencoder.write_config, autoencoder.table, autoencoder.structure,
        DIFFUSERS,
    ),
    DiTConfig: Kind(DiT, dit.read_config, dit.write_config, dit.table, dit.structure, DIFFUSERS),
    MMDiTConfig: Kind(MMDiT, mmdit.read_config, mmdit.write_config, mmdit.table, mmdit.structure, DIFFUSERS),
    ClipTextConfig: Kind(
        ClipText, clip_text.read_config, clip_text.write_config, lambda config: clip_text.TABLE, clip_text.structure,
        TRANSFORMERS,
    ),
    T5Config: Kind(T5Encoder, t5.read_config, t5.write_config, t5.table, t5.structure, TRANSFORMERS),
}  # fmt: skip
CLASSES: dict[str, type] = {
    unet.CLASS: UNetConfig,
    autoencoder.CLASS: AutoencoderConfig,
    mmdit.CLASS: MMDiTConfig,
    t5.CLASS: T5Config,
    **dict.fromkeys(dit.CLASSES, DiTConfig),
    **dict.fromkeys(clip_text.CLASSES, ClipTextConfig),
}


def load(folder: epath.PathLike, dtype: Any = "float32") -> Pretrained:
    """Loads a folder that `save_pretrained` of one network of diffusers wrote.

    Raises:
      InputError: the class or an attribute is unknown, or the files do not hold its weights.
    """
    folder = epath.Path(folder)
    config, params = read_component(folder, str(read_json(folder / "config.json").get("_class_name")), dtype)
    return Pretrained(KINDS[type(config)].module(config), params, config)


def read_component(folder: epath.Path, name: str, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """The config and the parameters of the network in a folder.

    Args:
      folder: with `config.json` and weights.
      name: of the class, in which configs of transformers are not certain themselves.
      dtype: of the parameters.

    Raises:
      InputError: the class or an attribute is unknown, or the files do not hold its weights.
    """
    values, source = read_json(folder / "config.json"), str(folder / "config.json")
    if (file := flax_msgpack.find(folder)) is not None:
        tensors: Mapping[str, Any] = flax_msgpack.read_file(file)
        if file.name == flax_msgpack.WEIGHTS:
            values = flax_msgpack.read_config(values, source)
        return build_component(values.get("_class_name", name), values, tensors, dtype, source)
    stem = KINDS[CLASSES[name]].weights if name in CLASSES else DIFFUSERS
    return build_component(name, values, folders.read_tensors(folder, stem), dtype, source)


def build_component(
    name: str, values: dict[str, Any], tensors: Mapping[str, Any], dtype: Any, source: str
) -> tuple[Any, dict[str, Any]]:
    """The config and the parameters of a network, from what its files hold.

    Raises:
      InputError: the class or an attribute is unknown, or the tensors are not its weights.
    """
    if name not in CLASSES:
        raise InputError(f"{source} is of class {name[:60]!r}, which is not known; {nearest(name, CLASSES)}")
    kind = KINDS[CLASSES[name]]
    if kind.library == "transformers":
        values = {key: value for key, value in values.items() if key != "_class_name"} | {"architectures": [name]}
    config = kind.read(values, source)
    return config, to_ours(kind.table(config), kind.structure(config), tensors, dtype)


def write_component(folder: epath.Path, config: Any, params: Any) -> tuple[str, str]:
    """Writes a network into a new folder inside one that is being written.

    Returns:
      The library and the class that read it.

    Raises:
      InputError: no class computes what the config says, or a parameter is no plain array.
    """
    kind, values = KINDS[type(config)], KINDS[type(config)].write(config)
    tensors: dict[str, np.ndarray] = to_theirs(kind.table(config), kind.structure(config), params)
    folder.mkdir(parents=True)
    folders.write_tensors(folder, tensors, stem=kind.weights)
    if kind.library == "transformers":
        values["torch_dtype"] = str(next(iter(tensors.values())).dtype)
    write_json(folder / "config.json", values)
    return kind.library, values.get("_class_name") or values["architectures"][0]
