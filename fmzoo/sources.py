"""What a source is: a run of ours, a folder or file of another project, a name of the zoo or of the Hub."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from fmzoo import models, zoo
from fmzoo.errors import InputError, nearest
from fmzoo.interop import (
    components,
    folders,
    gguf_files,
    hub,
    huggingface,
    image_runs,
    packages,
    parameter_runs,
    pipelines,
)
from fmzoo.interop.stored import Stored, as_jax
from fmzoo.models import Pretrained
from fmzoo.parallel import Rules
from fmzoo.text.files import read_json

RUN = "fmzoo"  # the key by which the config.json of a run tells itself from one of transformers
Put = Callable[[str, Stored], Any]


def read(
    source: epath.PathLike,
    dtype: str | None,
    put: Put,
    *,
    average: bool = False,
    prediction: str | None = None,
    quantize: str | None = None,
    split: tuple[Mesh, Rules] | None = None,
) -> Pretrained:
    """The model of a source.

    Args:
      source: as in `fmzoo.load`, and so are ``average``, ``prediction`` and ``quantize``, which only counts here for
        what is quantised as it is read.
      dtype: of the parameters; None is what the source has.
      put: makes of a leaf that is still in files, given its path, what the tree shall hold.
      split: the mesh that parameters are put on and the rules for it, of sources that have no such leaves.

    Raises:
      InputError: as `fmzoo.load`.
    """
    from fmzoo.train import locate

    path = locate(source)
    if hub.is_name(str(source)) and not path.exists():
        path = hub.fetch(str(source))
    single = path.suffix == ".safetensors" and path.is_file()
    if prediction is not None and not single:
        raise InputError(f"prediction is {prediction!r:.40} and {source} is no single file; None is needed")
    if is_run(path):
        return _load_run(path, dtype, average, split)
    if single:
        return pipelines.load_single_file(path, dtype, average=average, prediction=prediction)
    if average:
        raise InputError(f"average is True and {source} is no run folder; only a run or a single file keeps an average")
    return _load_path(path if path.exists() else _find_package(str(source)), dtype, quantize, put)


def is_run(path: epath.PathLike) -> bool:
    """Whether a path is the folder of a training run of ours."""
    path = epath.Path(path)
    return (path / "config.json").exists() and RUN in read_json(path / "config.json")


def keeps_average(source: epath.PathLike) -> bool:
    """Whether a source is a run of ours that keeps a moving average of its parameters."""
    from fmzoo.train import locate

    path = locate(source)
    return is_run(path) and bool(read_json(path / "config.json").get("ema"))


def _load_run(folder: epath.Path, dtype: str | None, average: bool, split: tuple[Mesh, Rules] | None) -> Pretrained:
    """The newest complete checkpoint of a run."""
    values = read_json(folder / "config.json")
    if values.get("stage") == image_runs.PRETRAIN:
        return image_runs.load_image_run(folder, values, dtype, average)
    if values.get("stage") == image_runs.FINETUNE:
        return image_runs.load_adapted_run(folder, values, _read_base(values, dtype), average)
    if values.get("stage") == image_runs.AUTOENCODER:
        return image_runs.load_autoencoder_run(folder, values, dtype, average)
    if values.get("stage") == parameter_runs.FINETUNE and values.get("rank"):
        return parameter_runs.load_adapters(folder, values, _read_base(values, dtype), average)
    return parameter_runs.load(folder, values, dtype, average, split)


def _read_base(values: Any, dtype: str | None) -> Pretrained:
    """What a run's adapters were trained over."""
    source, quantize = str(values.get("source")), values.get("quantize")
    average = bool(values.get("average")) and keeps_average(source)
    base = read(source, dtype, as_jax, average=average, quantize=quantize)
    params = base.params if quantize is None else models.quantize_params(base.params, quantize)
    return dataclasses.replace(base, params=models.merge(*models.separate(params)))


def _load_path(path: epath.Path, dtype: str | None, quantize: str | None, put: Put) -> Pretrained:
    """A folder or file of another project, by what it looks like."""
    if path.is_dir():
        if (path / pipelines.INDEX).exists():
            return pipelines.load(path, dtype)
        if (path / "config.json").exists():
            diffusers = "_class_name" in read_json(path / "config.json")
            return components.load(path, dtype) if diffusers else huggingface.load(path, dtype, put)
        file = gguf_files.find(path)
        return huggingface.load(path, dtype, put) if file is None else _load_gguf(file, dtype, quantize, put)
    folders.refuse_pickles([path])
    if path.suffix == gguf_files.ENDING:
        return _load_gguf(path, dtype, quantize, put)
    raise InputError(f"{path} is a file of no known format; a folder with config.json and safetensors is needed")


def _load_gguf(path: epath.Path, dtype: str | None, quantize: str | None, put: Put) -> Pretrained:
    """A GGUF file, each kernel quantised before the next is read."""

    def place(path: str, leaf: Stored) -> Any:
        if quantize is None or not models.is_quantized(path):
            return put(path, leaf)
        return jax.tree.map(jnp.asarray, models.quantize(np.asarray(leaf), quantize))

    return gguf_files.load(path, dtype, place)


def _find_package(name: str) -> epath.Path:
    """The weights of a name of the zoo, if a package holds them.

    Raises:
      InputError: the package is not installed, or there is none: then a name stands for a config, and weights are
        fetched by the user under their publisher's terms.
    """
    if name not in zoo.names():
        raise InputError(
            f"source {name[:80]!r} is no run folder, no path and no name of the zoo; {nearest(name, zoo.names())}"
        )
    entry = zoo.entry(name)
    if entry.package is not None:
        return packages.locate(entry.package, name)
    where = f"fmzoo.load({entry.repository!r}) fetches them from the Hugging Face Hub"
    raise InputError(f"{name} is a configuration without weights; {where if entry.repository else 'none exist'}")
