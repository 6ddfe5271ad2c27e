"""Pretraining of image models: denoising pictures with captions or classes, from a config to a run folder."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
from etils import epath
from flax import linen as nn

from fmzoo import data, parallel, text, train
from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.interop.image_runs import ImageModelConfig, init_params, tokenizer_of
from fmzoo.models import Pretrained
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.denoiser import make_denoiser
from fmzoo.models.mmdit import MMDiTConfig
from fmzoo.models.system_sharding import system_rules
from fmzoo.models.unet_config import UNetConfig
from fmzoo.stages.frozen_autoencoder import Coder, in_latents, read_autoencoder
from fmzoo.stages.image_training import Batches, check_latents, make_batches, make_objective
from fmzoo.stages.training_run import check_run, fit_config, make_state, open_mesh, refine, run_in_folder


@dataclasses.dataclass(frozen=True)
class PretrainImagesConfig:
    """Everything that decides a run; it is written whole into the run's folder."""

    stage: ClassVar[str] = "pretrain_images"  # the mark of a run folder's config
    model: ImageModelConfig = ImageModelConfig()
    optimizer: train.OptimizerConfig = train.OptimizerConfig()
    data: str = "digits"  # what `fmzoo.data.images` opens
    crop: Literal["centre", "random"] = "centre"
    flip: float = 0.0  # the probability of a horizontal flip
    tokenizer: str = "bpe"  # bpe: trained on the captions to model.encoder.vocab_size; or the path of one with a pad
    autoencoder: str | None = None  # what `fmzoo.load` opens: its autoencoder stays as it is, its latents are denoised
    latents: Literal["encode", "cache"] = "encode"  # at each step; or once, before the first, and kept in memory
    posterior: Literal["sample", "mean"] = "sample"  # what of the autoencoder's Gaussian a latent is
    batch_size: int = 64  # pictures in a step, over all devices and hosts
    microbatches: int = 1
    steps: int = 1000
    seed: int = 0  # initial weights, noise and times
    data_seed: int = 0  # order, crops and flips of the pictures
    ema: float = 0.995  # decay of a moving average of the weights; 0 keeps none
    dropout: float = 0.1  # share of pictures that are told the empty caption, or no class
    density: str = "uniform"  # of the times
    weighting: str = "none"  # of the squared error by time
    offset_noise: float = 0.0
    checkpoint_every: int = 250
    keep_checkpoints: int | None = 3
    keep_every: int | None = None
    nonfinite_patience: int = 10
    mesh: str = "data=-1"
    workers: int = 0  # processes that decode and prepare batches
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_run(self)
        check_latents(self)
        if self.latents == "cache" and self.autoencoder is None:
            raise InputError("latents are to be cached and autoencoder is None; the source of one is needed")

    @property
    def fit(self) -> train.FitConfig:
        """The part that the loop reads."""
        return fit_config(self)


def _unet(side: int, colours: int, channels: tuple[int, ...], width: int, attention: tuple[int, ...]) -> UNetConfig:
    """A small U-Net over pixels that attends to a caption."""
    levels = len(channels)
    return UNetConfig(
        in_channels=colours, out_channels=colours, sample_size=side, channels=channels, layers=(1,) * levels,
        transformer_layers=attention, num_heads=(4,) * levels, context_dim=width, groups=8, transposed_inputs=True,
    )  # fmt: skip


def _mmdit(side: int, patch: int, heads: int, layers: int, width: int) -> MMDiTConfig:
    """A small transformer over patches of pixels that attends with a caption, and is told it as one vector too."""
    return MMDiTConfig(
        sample_size=side, patch_size=patch, in_channels=3, out_channels=3, num_layers=layers, num_heads=heads,
        head_dim=64, context_features=width, pooled_features=width, max_grid=side // patch, qk_norm=True,
        layers="unrolled", transposed_inputs=True,
    )  # fmt: skip


def _reader(width: int, vocab: int, length: int, layers: int = 2) -> ClipTextConfig:
    """A small encoder of captions, trained with the denoiser."""
    return ClipTextConfig(
        vocab_size=vocab, d_model=width, num_layers=layers, num_heads=4, d_ff=4 * width, context_length=length, eos_id=0
    )


COSINE = Process(schedule="cosine", prediction="v_prediction", spacing="trailing", steps_offset=0, threshold="static")
FLOW = Process(schedule="flow", prediction="sample", steps_offset=0, threshold="static")
IMAGE_PRESETS = {
    "digits": PretrainImagesConfig(
        model=ImageModelConfig(_unet(8, 1, (32, 64), 64, (0, 1)), COSINE, _reader(64, 300, 12)),
        optimizer=train.OptimizerConfig(learning_rate=2e-3, warmup_steps=50, weight_decay=0.01),
        data="digits", batch_size=64, steps=1500, ema=0.995, checkpoint_every=500,
    ),
    "mnist": PretrainImagesConfig(
        model=ImageModelConfig(_unet(28, 1, (32, 64, 96), 64, (0, 0, 1)), COSINE, _reader(64, 300, 12)),
        optimizer=train.OptimizerConfig(learning_rate=2e-3, warmup_steps=50, weight_decay=0.01),
        data="mnist", batch_size=32, steps=1500, ema=0.995, checkpoint_every=500,
    ),
    "emoji": PretrainImagesConfig(
        model=ImageModelConfig(_mmdit(32, 4, 4, 6, 128), FLOW, _reader(128, 2048, 20)),
        optimizer=train.OptimizerConfig(learning_rate=1e-3, warmup_steps=100, final_fraction=0.02, weight_decay=0.01),
        data="emoji", batch_size=32, steps=2400, ema=0.998, checkpoint_every=400,
    ),
}  # fmt: skip


class ImageRun(NamedTuple):
    """What a run is made of, ready for `fmzoo.train.fit` or a loop of one's own."""

    module: nn.Module
    tokenizer: text.PromptTokenizer | None
    batches: Batches
    state: train.State
    step: train.Step
    frozen: dict[str, Any]
    mesh: jax.sharding.Mesh


def prepare(
    config: PretrainImagesConfig, tokenizer: text.Tokenizer | None = None, coder: Coder | None = None
) -> ImageRun:
    """Opens the data, makes or loads the tokenizer, the model, its state and the compiled step; nothing is written.

    Args:
      config: of the run; where it names an autoencoder that its model lacks, of `in_latents`.
      tokenizer: of captions; None makes or loads the one that the config names.
      coder: what `read_autoencoder` gave; None reads it.

    Raises:
      InputError: the data, the mesh, the autoencoder or the tokenizer do not fit the config.
    """
    mesh, coder = open_mesh(config), coder or read_autoencoder(config)
    config = in_latents(config, coder)
    pictures = data.images(config.data)
    if tokenizer is None and config.model.encoder is not None:
        tokenizer = make_tokenizer(config, pictures)
    prompts, system = tokenizer_of(config.model, tokenizer), config.model.system
    rules, optimizer = system_rules(system), train.make_optimizer(config.optimizer, config.steps)
    frozen = {} if coder is None else {"autoencoder": coder.params}
    return ImageRun(
        module=make_denoiser(config.model.denoiser),
        tokenizer=prompts,
        batches=make_batches(config, system, pictures, prompts, coder and coder.params),
        state=init(config, optimizer, mesh),
        step=parallel.compile(make_step(config, prompts, optimizer), mesh, rules),
        frozen=parallel.place(frozen, mesh, rules),
        mesh=mesh,
    )


def make_tokenizer(config: PretrainImagesConfig, pictures: Sequence[data.Picture]) -> text.Tokenizer:
    """The tokenizer that a config names, a BPE being trained on the captions.

    Raises:
      InputError: there is none at the path, it has no pad, or more tokens than the encoder.
    """
    if config.tokenizer == "bpe":
        captions = sorted({picture.caption for picture in pictures})
        tokenizer = text.train_bpe(captions, config.model.encoder.vocab_size, pad=True)
    else:
        tokenizer = text.load_tokenizer(config.tokenizer)
    if tokenizer is None or tokenizer.pad_id is None:
        raise InputError(f"tokenizer {config.tokenizer!r} has no pad; bpe, or the path of one with a pad, is needed")
    if tokenizer.vocab_size > config.model.encoder.vocab_size:
        raise InputError(
            f"tokenizer has {tokenizer.vocab_size} tokens and model.encoder.vocab_size is "
            f"{config.model.encoder.vocab_size}; at least as many are needed"
        )
    return tokenizer


def make_step(config: PretrainImagesConfig, prompts: text.PromptTokenizer | None, optimizer: Any) -> train.Step:
    """The step of this stage, not compiled: gradient, update, skipping, and a moving average if there is one."""
    objective = make_objective(config, config.model.system, prompts)
    return refine(train.update(train.gradients(objective, microbatches=config.microbatches), optimizer), config.ema)


def init(config: PretrainImagesConfig, optimizer: Any, mesh: jax.sharding.Mesh) -> train.State:
    """The state at step 0, each device making its own part."""
    key, noise = jax.random.split(jax.random.key(config.seed))

    def make() -> train.State:
        params = init_params(config.model, key)
        return train.init_state(params, optimizer, noise, ema=config.ema > 0, copy=False)

    return make_state(make, mesh, system_rules(config.model.system))


def pretrain_images(config: PretrainImagesConfig, workdir: epath.PathLike) -> bool:
    """Runs a config in a folder, or goes on where that folder's run stopped.

    The folder gets ``config.json``, ``tokenizer/``, ``frozen/`` if anything is, ``metrics.jsonl``,
    ``checkpoints/STEP/`` and, at the end, ``report.md`` with a plot and a grid of samples.

    Returns:
      Whether the run is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds another run, or anything that `prepare` or `fmzoo.train.fit` refuses. Nothing is left
        that was not there before.
    """
    coder = read_autoencoder(config)
    config = in_latents(config, coder)

    def begin(kept: epath.Path | None) -> ImageRun:
        return prepare(config, text.load_tokenizer(kept) if kept and config.model.encoder else None, coder)

    def report(folder: epath.Path, run: ImageRun, params: Any) -> None:
        from fmzoo.stages.image_report import report_images, training_prompts

        whole = params and {**params, **jax.device_get(run.frozen)}
        pretrained = Pretrained(run.module, whole, config.model.system, run.tokenizer)
        report_images(config, folder, pretrained, training_prompts(config, pretrained))

    return run_in_folder(
        config, workdir, begin, report,
        tokenizer_of=lambda run: run.tokenizer and next(iter(run.tokenizer.tokenizers.values())),
    )  # fmt: skip
