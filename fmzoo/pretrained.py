"""Models in and out: `load` from a run, a path or a name of the zoo, and `save`."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from etils import epath
from jax.sharding import Mesh

from fmzoo import models, parallel
from fmzoo.errors import InputError
from fmzoo.interop import (
    adapters,
    gguf_files,
    huggingface,
    image_runs,
    parameter_runs,
    pipeline_writing,
)
from fmzoo.interop.stored import as_jax, on_mesh
from fmzoo.models import DECODER_RULES, DecoderConfig, Pretrained
from fmzoo.models.system_sharding import family_rules
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.sources import is_run, keeps_average, read

__all__ = ["check_format", "convert", "is_run", "keeps_average", "load", "save"]

DTYPES = ("float32", "bfloat16", "float16", "float64")
FORMATS: dict[str, Callable[[Pretrained, epath.PathLike], None]] = {
    "huggingface": huggingface.save,
    "diffusers": pipeline_writing.save,
    "gguf": gguf_files.save,
    "gguf-q8_0": functools.partial(gguf_files.save, encoding="Q8_0"),
    "gguf-f32": functools.partial(gguf_files.save, encoding="F32"),
    "orbax": parameter_runs.save,
    "peft": adapters.save,
}


def load(
    source: epath.PathLike,
    dtype: str = "float32",
    *,
    compute_dtype: str | None = None,
    average: bool = False,
    prediction: str | None = None,
    quantize: str | None = None,
    adapter: epath.PathLike | None = None,
    mesh: Mesh | str | None = None,
    rules: parallel.Rules | None = None,
) -> Pretrained:
    """Loads a model from a run folder, a path, a name of the zoo whose package is installed, or one of the Hub.

    Args:
      source: the folder of a run; a folder in the format of transformers or diffusers, of a whole pipeline or one
        network; a GGUF file; Stable Diffusion 1, 2 or XL in a single safetensors file; each may be remote. Or
        ``owner/model`` on the Hugging Face Hub, perhaps with ``@revision`` or a file, from the cache if it is there.
      dtype: what the parameters are stored in: float32, bfloat16, float16 or float64.
      compute_dtype: what the model computes in; None is what the source says, or float32 if it says nothing.
      average: take the moving average of the parameters, of a run or a single file, instead of the last ones.
      prediction: of a single file, which does not say it: ``epsilon`` or ``v_prediction``; None is what its version was
        published with (2-base needs ``epsilon``).
      quantize: keep the kernels of a decoder in ``int8`` or ``int4``, as nodes (`fmzoo.models.quantize`); None is
        ``dtype``. What a GGUF file stores as Q8_0, or as Q4_0 and Q4_1, keeps its bits.
      adapter: LoRA weights to put onto it, a folder that PEFT wrote or a safetensors file: as nodes over the kernels of
        a decoder (`fmzoo.models.separate` takes them off), added to the kernels of a system that draws.
      mesh: of `fmzoo.parallel.mesh`, or such as ``"fsdp=8"``: where the parameters are put. Of safetensors and of a run
        only the parts are read that this process's devices need, each once; other sources are read whole.
      rules: how the mesh splits them; None is as the model's family does.

    Returns:
      The module with its parameters, config and tokenizer (None if the source has none).

    Raises:
      InputError: the source is none of these, is damaged, or holds no weights.
    """
    _check_dtype(dtype)
    mesh = parallel.mesh(mesh) if isinstance(mesh, str) else mesh
    split = None if mesh is None else (mesh, rules or DECODER_RULES)
    put = as_jax if split is None else on_mesh(*split)
    options = {"average": average, "prediction": prediction, "quantize": quantize}
    pretrained = read(source, dtype, put, split=split, **options)
    if quantize is not None:
        pretrained = _quantized(pretrained, quantize, source)
    if adapter is not None:
        pretrained = adapters.adapt(pretrained, adapter)
    if mesh is not None:
        params = parallel.place(pretrained.params, mesh, rules or family_rules(pretrained.config))
        pretrained = dataclasses.replace(pretrained, params=params)
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
        ``gguf-q8_0`` or ``gguf-f32``: `model.gguf`, or a file if the name ends so; ``orbax``: a run folder with the
        parameters as its only checkpoint, of a decoder; ``peft``: a decoder's adapters alone. In the others quantised
        kernels become arrays, and adapters are merged.

    Raises:
      InputError: the format is unknown or cannot hold the model, the folder holds something, or the disk is full.
    """
    check_format(format)
    if format != "peft":
        params = models.dequantize_params(models.merge(*models.separate(pretrained.params)))
        pretrained = dataclasses.replace(pretrained, params=params)
    FORMATS[format](pretrained, folder)


def convert(
    source: epath.PathLike,
    folder: epath.PathLike,
    format: str = "huggingface",
    dtype: str | None = None,
    *,
    average: bool = False,
    adapter: epath.PathLike | None = None,
) -> None:
    """Writes a model in another format, a tensor at a time where source and format are of safetensors or GGUF.

    Then never more than a few of the largest tensors are in memory; other sources and formats hold the whole model.

    Args:
      source: as in `load`.
      folder: as in `save`.
      format: as in `save`.
      dtype: that the tensors are written in, but for GGUF; None is what the source has, and float32 if it is quantised.
      average: as in `load`.
      adapter: as in `load`; the whole model is then in memory.

    Raises:
      InputError: as in `load` and `save`.
    """
    check_format(format)
    if dtype is not None:
        _check_dtype(dtype)
    if adapter is None:
        save(read(source, dtype, lambda path, leaf: leaf, average=average), folder, format)
    else:
        save(adapters.adapt(read(source, dtype, as_jax, average=average), adapter), folder, format)


def check_format(format: str) -> None:
    """Refuses a format that `save` does not know.

    Raises:
      InputError: it is none of them.
    """
    if format not in FORMATS:
        raise InputError(f"format is {format!r:.60}; one of {', '.join(FORMATS)} is needed")


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES or (dtype == "float64" and not jax.config.jax_enable_x64):
        raise InputError(f"dtype is {dtype!r}; one of {', '.join(DTYPES)} is needed (float64 with jax_enable_x64)")


def _quantized(pretrained: Pretrained, kind: str, source: epath.PathLike) -> Pretrained:
    if not isinstance(pretrained.config, DecoderConfig):
        raise InputError(f"quantize is {kind!r:.40} and {source} is no decoder of text; None is needed")
    return dataclasses.replace(pretrained, params=models.quantize_params(pretrained.params, kind))
