"""The model of an image run: its config as the run's folder has it, and its parameters, trained and frozen."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fmzoo import text
from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.interop.config_json import from_json
from fmzoo.interop.run_checkpoints import check_shapes, read_adapters
from fmzoo.models import Pretrained, merge
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL
from fmzoo.models.clip_text import ClipText, ClipTextConfig
from fmzoo.models.denoiser import DenoiserConfig, make_denoiser, needed_conditions
from fmzoo.models.dit import DiTConfig
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.text_to_image import Family, TextToImageConfig
from fmzoo.models.unet_config import UNetConfig
from fmzoo.text.files import read_json

Array = jax.Array
ENCODER = "text_encoder"  # the component's name
PRETRAIN, FINETUNE = "pretrain_images", "finetune_images"  # stages whose run folders hold systems that draw
AUTOENCODER = "pretrain_autoencoder"  # the stage whose run folders hold an autoencoder
SIZES = 6  # that a picture's batch tells: original height and width, top and left of the crop, height and width
STAGES = (PRETRAIN, FINETUNE, AUTOENCODER)
LATENTS = "latents.json"  # in the folder of an autoencoder's run: the scale and the shift of its latents, measured


@dataclasses.dataclass(frozen=True)
class ImageModelConfig:
    """A denoiser, what it was trained on, and what stands before and behind it."""

    denoiser: DenoiserConfig = UNetConfig()
    process: Process = Process()
    encoder: ClipTextConfig | None = None  # of captions; trained with the denoiser
    autoencoder: AutoencoderConfig | None = None  # frozen; None denoises pixels

    @property
    def system(self) -> TextToImageConfig:
        """As what `fmzoo.load` gives."""
        encoders = {} if self.encoder is None else {ENCODER: self.encoder}
        return TextToImageConfig(
            self.denoiser, self.autoencoder, encoders, self.process, self._family if encoders else "class", t5_length=0
        )

    @property
    def _family(self) -> Family:
        """How a caption is told: as a sequence, and to SD3's and SDXL's denoisers as one vector too."""
        if isinstance(self.denoiser, MMDiTConfig):
            return "sd3"
        return "sdxl" if "time_ids" in needed_conditions(self.denoiser) else "sd1"

    @property
    def channels(self) -> int:
        """Of a picture."""
        return self.denoiser.in_channels if self.autoencoder is None else self.autoencoder.image_channels

    @property
    def size(self) -> int:
        """Rows and columns of a picture."""
        return self.denoiser.sample_size * (1 if self.autoencoder is None else self.autoencoder.factor)


def init_params(config: ImageModelConfig, key: Array) -> dict[str, Any]:
    """Initial values of what is trained: the denoiser and, if there is one, the encoder of captions."""
    denoiser_key, encoder_key = jax.random.split(key)
    side, channels = config.denoiser.sample_size, config.denoiser.in_channels
    sample, time = jnp.zeros((1, side, side, channels)), jnp.zeros((1,))
    made = make_denoiser(config.denoiser).init(denoiser_key, sample, time, *conditions_like(config))
    params = {"denoiser": made["params"]}
    if config.encoder is not None:
        tokens = jnp.zeros((1, config.encoder.context_length), jnp.int32)
        params[ENCODER] = ClipText(config.encoder).init(encoder_key, tokens)["params"]
    return params


def conditions_like(config: ImageModelConfig) -> tuple[Any, ...]:
    """Zeros in the place of what a denoiser is told beside a sample and its time, in the order of its arguments.

    Raises:
      InputError: as `sizes_like`, or the encoder's pooled output is not as wide as ``pooled_features``.
    """
    denoiser, encoder, label = config.denoiser, config.encoder, jnp.zeros((1,), jnp.int32)
    if isinstance(denoiser, DiTConfig):
        return (label,)
    if isinstance(denoiser, UNetConfig):
        width = denoiser.context_dim
        context = None if width is None else jnp.zeros((1, 1, width))
        return context, {"label": label, **sizes_like(config)}
    pooled = 0 if encoder is None else encoder.projection or encoder.d_model
    if pooled != denoiser.pooled_features:
        raise InputError(
            f"model.denoiser.pooled_features is {denoiser.pooled_features} and the encoder's pooled output has width "
            f"{pooled}; the same is needed"
        )
    return jnp.zeros((1, 1, denoiser.context_features)), jnp.zeros((1, pooled))


def sizes_like(config: ImageModelConfig) -> dict[str, Array]:
    """Zeros in the place of a pooled caption and of sizes, for a U-Net that is told them.

    Raises:
      InputError: there is no encoder of captions, or its pooled output and six sizes are not as wide as ``added_dim``.
    """
    denoiser, encoder = config.denoiser, config.encoder
    if denoiser.added_dim is None:
        return {}
    pooled = 0 if encoder is None else encoder.projection or encoder.d_model
    if encoder is None or pooled + SIZES * denoiser.added_number_dim != denoiser.added_dim:
        raise InputError(
            f"model.denoiser.added_dim is {denoiser.added_dim}; the width {pooled} of the encoder's pooled output and "
            f"{SIZES} sizes of added_number_dim {denoiser.added_number_dim} are needed"
        )
    return {"pooled": jnp.zeros((1, pooled)), "time_ids": jnp.zeros((1, SIZES))}


def tokenizer_of(config: ImageModelConfig, tokenizer: text.Tokenizer | None) -> text.PromptTokenizer | None:
    """The rows of tokens that the encoder reads; None where there is no encoder."""
    if config.encoder is None:
        return None
    return text.PromptTokenizer({ENCODER: tokenizer}, {ENCODER: config.encoder.context_length})


def load_image_run(folder: epath.Path, values: Any, dtype: str, average: bool) -> Pretrained:
    """The newest complete checkpoint of an image run, with what it kept frozen.

    Args:
      folder: of the run.
      values: of ``config.json`` there.
      dtype: of the parameters.
      average: take the moving average.

    Raises:
      InputError: the config or the checkpoint is damaged, or they do not fit each other.
    """
    from fmzoo.train import checkpoints, load_frozen

    config = from_json(ImageModelConfig, values.get("model"), "model")
    params, step = checkpoints.load_params(folder / "checkpoints", average=average)
    check_shapes(params, jax.eval_shape(lambda: init_params(config, jax.random.key(0))), folder / f"checkpoints/{step}")
    if config.autoencoder is not None:
        params |= load_frozen(folder / "frozen", {"autoencoder": autoencoder_like(config.autoencoder)})
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    system = config.system
    tokenizer = tokenizer_of(config, text.load_tokenizer(folder / "tokenizer")) if config.encoder else None
    return Pretrained(make_denoiser(config.denoiser), params, system, tokenizer)


def load_adapted_run(folder: epath.Path, values: Any, base: Pretrained, average: bool) -> Pretrained:
    """The newest adapters of a fine-tuning run, merged into the system that they were trained on.

    Args:
      folder: of the run.
      values: of ``config.json`` there.
      base: what its ``source`` gives.
      average: take the moving average.

    Raises:
      InputError: the config or the checkpoint is damaged, or they do not fit each other.
    """
    adapters, scale = read_adapters(folder, values, base.params, average)
    return dataclasses.replace(base, params=merge(base.params, adapters, scale))


def load_autoencoder_run(folder: epath.Path, values: Any, dtype: str, average: bool) -> Pretrained:
    """The newest autoencoder of a run that trains one; its discriminator is left there.

    The config has the scale and the shift of the latents that the finished run measured.

    Args:
      folder: of the run.
      values: of ``config.json`` there.
      dtype: of the parameters.
      average: take the moving average.

    Raises:
      InputError: the config or the checkpoint is damaged, or they do not fit each other.
    """
    from fmzoo.train import checkpoints

    config = from_json(AutoencoderConfig, values.get("model"), "model")
    params, step = checkpoints.load_params(folder / "checkpoints", average=average, name="autoencoder")
    check_shapes(params, autoencoder_like(config), folder / f"checkpoints/{step}")
    if (folder / LATENTS).exists():
        measured = read_json(folder / LATENTS)
        config = from_json(AutoencoderConfig, values["model"] | measured, LATENTS)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    return Pretrained(AutoencoderKL(config), params, config)


def autoencoder_like(config: AutoencoderConfig) -> Any:
    """Zeros of the shapes of an autoencoder's parameters."""
    image = jnp.zeros((1, config.factor, config.factor, config.image_channels))
    shapes = jax.eval_shape(AutoencoderKL(config).init, jax.random.key(0), image)["params"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def compute_in(pretrained: Pretrained, dtype: str) -> Pretrained:
    """The system with its denoiser computing in another dtype."""
    denoiser = dataclasses.replace(pretrained.config.denoiser, dtype=dtype)
    config = dataclasses.replace(pretrained.config, denoiser=denoiser)
    return dataclasses.replace(pretrained, module=make_denoiser(denoiser), config=config)
