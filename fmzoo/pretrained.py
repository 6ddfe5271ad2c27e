"""Models in and out: `load` from a run, a path or a name of the zoo, and `save`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict

from fmzoo import models, text, zoo
from fmzoo.errors import InputError, nearest
from fmzoo.interop import (
    components,
    config_json,
    decoder_structure,
    folders,
    gguf_files,
    huggingface,
    image_runs,
    packages,
    pipeline_writing,
    pipelines,
)
from fmzoo.models import Decoder, DecoderConfig, Pretrained
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.text.files import read_json

RUN = "fmzoo"  # the key by which the config.json of a run tells itself from one of transformers
DTYPES = ("float32", "bfloat16", "float16", "float64")
FORMATS: dict[str, Callable[[Pretrained, epath.PathLike], None]] = {
    "huggingface": huggingface.save,
    "diffusers": pipeline_writing.save,
    "gguf": gguf_files.save,
    "gguf-q8_0": functools.partial(gguf_files.save, encoding="Q8_0"),
    "gguf-f32": functools.partial(gguf_files.save, encoding="F32"),
}


def load(
    source: epath.PathLike,
    dtype: str = "float32",
    *,
    compute_dtype: str | None = None,
    average: bool = False,
    prediction: str | None = None,
    quantize: str | None = None,
) -> Pretrained:
    """Loads a model from a run folder, a path, or a name of the zoo whose package is installed, in this order.

    Args:
      source: the folder of a run; a folder in the format of transformers or diffusers, of a whole pipeline or one
        network; a GGUF file; Stable Diffusion 1, 2 or XL in a single safetensors file. Any may be remote.
      dtype: what the parameters are stored in: float32, bfloat16, float16 or float64.
      compute_dtype: what the model computes in; None is what the source says, or float32 if it says nothing.
      average: take the moving average of the parameters, of a run or a single file, instead of the last ones.
      prediction: of a single file, which does not say it: ``epsilon`` or ``v_prediction``; None is what its version was
        published with (2-base needs ``epsilon``).
      quantize: keep the kernels of a decoder in ``int8`` or ``int4``, as nodes (`fmzoo.models.quantize`); None is
        ``dtype``. What a GGUF file stores as Q8_0, or as Q4_0 and Q4_1, keeps its bits.

    Returns:
      The module with its parameters, config and tokenizer (None if the source has none).

    Raises:
      InputError: the source is none of these, is damaged, or holds no weights.
    """
    if dtype not in DTYPES or (dtype == "float64" and not jax.config.jax_enable_x64):
        raise InputError(f"dtype is {dtype!r}; one of {', '.join(DTYPES)} is needed (float64 with jax_enable_x64)")
    from fmzoo.train import locate

    path = locate(source)
    single = path.suffix == ".safetensors" and path.is_file()
    if prediction is not None and not single:
        raise InputError(f"prediction is {prediction!r:.40} and {source} is no single file; None is needed")
    if is_run(path):
        pretrained = _load_run(path, dtype, average)
    elif single:
        pretrained = pipelines.load_single_file(path, dtype, average=average, prediction=prediction)
    elif average:
        raise InputError(f"average is True and {source} is no run folder; only a run or a single file keeps an average")
    else:
        pretrained = _load_path(path if path.exists() else _find_package(str(source)), dtype, quantize)
    if quantize is not None:
        pretrained = _quantized(pretrained, quantize, source)
    if compute_dtype is None:
        return pretrained
    if isinstance(pretrained.config, TextToImageConfig):
        return image_runs.compute_in(pretrained, compute_dtype)
    config = models.replace(pretrained.config, dtype=compute_dtype)
    return dataclasses.replace(pretrained, module=type(pretrained.module)(config), config=config)


def save(pretrained: Pretrained, folder: epath.PathLike, format: str = "huggingface") -> None:
    """Writes a model into a new folder, completely or not at all; `load` gets it back.

    Args:
      pretrained: the model; its parameters are written in the dtype that they have.
      folder: a folder that is not there or empty; may be remote.
      format: ``huggingface``: `config.json`, safetensors and the tokenizer, as transformers 4 and 5 read them;
        ``diffusers``: `model_index.json` and a folder for each component of a system that draws; ``gguf`` (F16),
        ``gguf-q8_0`` or ``gguf-f32``: `model.gguf`, or a file if the name ends so. Quantised kernels become arrays.

    Raises:
      InputError: the format is unknown or cannot hold the model, the folder holds something, or the disk is full.
    """
    check_format(format)
    params = models.dequantize_params(pretrained.params)
    FORMATS[format](dataclasses.replace(pretrained, params=params), folder)


def check_format(format: str) -> None:
    """Refuses a format that `save` does not know.

    Raises:
      InputError: it is none of them.
    """
    if format not in FORMATS:
        raise InputError(f"format is {format!r:.60}; one of {', '.join(FORMATS)} is needed")


def is_run(path: epath.PathLike) -> bool:
    """Whether a path is the folder of a training run of ours."""
    path = epath.Path(path)
    return (path / "config.json").exists() and RUN in read_json(path / "config.json")


def keeps_average(source: epath.PathLike) -> bool:
    """Whether a source is a run of ours that keeps a moving average of its parameters."""
    from fmzoo.train import locate

    path = locate(source)
    return is_run(path) and bool(read_json(path / "config.json").get("ema"))


def _load_run(folder: epath.Path, dtype: str, average: bool) -> Pretrained:
    """The newest complete checkpoint of a run."""
    from fmzoo.train import checkpoints

    values = read_json(folder / "config.json")
    if values.get("stage") == image_runs.PRETRAIN:
        return image_runs.load_image_run(folder, values, dtype, average)
    if values.get("stage") == image_runs.FINETUNE:
        source = str(values.get("source"))
        base = load(source, dtype, average=bool(values.get("average")) and keeps_average(source))
        return image_runs.load_adapted_run(folder, values, base, average)
    if values.get("stage") == image_runs.AUTOENCODER:
        return image_runs.load_autoencoder_run(folder, values, dtype, average)
    config = config_json.from_json(DecoderConfig, values.get("model"), "model")
    params, step = checkpoints.load_params(folder / "checkpoints", average=average)
    _check_shapes(params, config, folder / "checkpoints" / str(step))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    return Pretrained(Decoder(config), params, config, text.load_tokenizer(folder / "tokenizer"))


def _check_shapes(params: Any, config: DecoderConfig, checkpoint: epath.Path) -> None:
    """Refuses parameters that are not those of the config beside them."""
    found = {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}
    needed = decoder_structure(config).shapes
    for name in sorted({*found, *needed}):
        if found.get(name) != needed.get(name):
            there, here = found.get(name, "nothing"), needed.get(name, "nothing")
            raise InputError(f"checkpoint {checkpoint} has {there} at {name}; config.json beside it needs {here}")


def _load_path(path: epath.Path, dtype: str, quantize: str | None) -> Pretrained:
    """A folder or file of another project, by what it looks like."""
    if path.is_dir():
        if (path / pipelines.INDEX).exists():
            return pipelines.load(path, dtype)
        if (path / "config.json").exists():
            diffusers = "_class_name" in read_json(path / "config.json")
            return components.load(path, dtype) if diffusers else huggingface.load(path, dtype)
        file = gguf_files.find(path)
        return huggingface.load(path, dtype) if file is None else _load_gguf(file, dtype, quantize)
    folders.refuse_pickles([path])
    if path.suffix == gguf_files.ENDING:
        return _load_gguf(path, dtype, quantize)
    raise InputError(f"{path} is a file of no known format; a folder with config.json and safetensors is needed")


def _load_gguf(path: epath.Path, dtype: str, quantize: str | None) -> Pretrained:
    """A GGUF file, each kernel quantised before the next is read."""

    def place(leaf: str, array: Any) -> Any:
        fewer = quantize is not None and models.is_quantized(leaf)
        return jax.tree.map(jnp.asarray, models.quantize(array, quantize) if fewer else array)

    return gguf_files.load(path, dtype, place)


def _quantized(pretrained: Pretrained, kind: str, source: epath.PathLike) -> Pretrained:
    if not isinstance(pretrained.config, DecoderConfig):
        raise InputError(f"quantize is {kind!r:.40} and {source} is no decoder of text; None is needed")
    return dataclasses.replace(pretrained, params=models.quantize_params(pretrained.params, kind))


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
    where = f"download {entry.repository} from the Hugging Face Hub and give its folder"
    raise InputError(f"{name} is a configuration without weights; {where if entry.repository else 'none exist'}")
