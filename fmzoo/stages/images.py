"""Pretraining of image models: denoising pictures with captions or classes, from a config to a run folder."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import linen as nn

from fmzoo import data, objectives, parallel, text, train
from fmzoo.diffusion import Process
from fmzoo.errors import InputError
from fmzoo.interop.image_runs import ImageModelConfig, init_params, tokenizer_of
from fmzoo.models import Pretrained
from fmzoo.models.autoencoder import AutoencoderKL, to_latents
from fmzoo.models.clip_text import ClipTextConfig
from fmzoo.models.denoiser import class_count, denoise, make_denoiser, needed_conditions
from fmzoo.models.text_to_image import TextToImageConfig, encode_prompts
from fmzoo.models.unet_config import UNetConfig
from fmzoo.stages.run_folder import check_workdir, is_finished, nothing_left, open_workdir


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
        for name in ("batch_size", "microbatches", "steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        for name in ("seed", "data_seed"):
            if not 0 <= getattr(self, name) < 2**32:
                raise InputError(f"{name} is {getattr(self, name)}; a whole number from 0 to {2**32 - 1} is needed")
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; at least 0 and below 1 is needed")
        parallel.check_rows(self.batch_size, self.microbatches, "microbatches")
        parallel.parse_mesh(self.mesh)

    @property
    def fit(self) -> train.FitConfig:
        """The part that the loop reads."""
        names = [field.name for field in dataclasses.fields(train.FitConfig)]
        return train.FitConfig(**{name: getattr(self, name) for name in names})


def _unet(side: int, colours: int, channels: tuple[int, ...], width: int, attention: tuple[int, ...]) -> UNetConfig:
    """A small U-Net over pixels that attends to a caption."""
    levels = len(channels)
    return UNetConfig(
        in_channels=colours, out_channels=colours, sample_size=side, channels=channels, layers=(1,) * levels,
        transformer_layers=attention, num_heads=(4,) * levels, context_dim=width, groups=8, transposed_inputs=True,
    )  # fmt: skip


def _reader(width: int, vocab: int, length: int, layers: int = 2) -> ClipTextConfig:
    """A small encoder of captions, trained with the denoiser."""
    return ClipTextConfig(
        vocab_size=vocab, d_model=width, num_layers=layers, num_heads=4, d_ff=4 * width, context_length=length
    )


COSINE = Process(schedule="cosine", prediction="v_prediction", spacing="trailing", steps_offset=0, threshold="static")
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
        model=ImageModelConfig(_unet(32, 3, (32, 64, 128), 128, (0, 0, 1)), COSINE, _reader(128, 2048, 24)),
        optimizer=train.OptimizerConfig(learning_rate=1.5e-3, warmup_steps=100, final_fraction=0.02, weight_decay=0.01),
        data="emoji", batch_size=16, steps=2800, ema=0.998, checkpoint_every=400,
    ),
}  # fmt: skip


class ImageRun(NamedTuple):
    """What a run is made of, ready for `fmzoo.train.fit` or a loop of one's own."""

    module: nn.Module
    tokenizer: text.PromptTokenizer | None
    batches: data.ImageIterator
    state: train.State
    step: train.Step
    frozen: dict[str, Any]
    mesh: jax.sharding.Mesh


def prepare(config: PretrainImagesConfig, tokenizer: text.Tokenizer | None = None) -> ImageRun:
    """Opens the data, makes or loads the tokenizer, the model, its state and the compiled step; nothing is written.

    Raises:
      InputError: the data, the mesh, the autoencoder or the tokenizer do not fit the config.
    """
    mesh = parallel.mesh(config.mesh)
    parallel.check_rows(config.batch_size // config.microbatches, mesh.shape["data"] * mesh.shape["fsdp"], "devices")
    parallel.check_rows(config.batch_size, jax.process_count(), "hosts")
    pictures = data.images(config.data)
    if tokenizer is None and config.model.encoder is not None:
        tokenizer = make_tokenizer(config, pictures)
    prompts = tokenizer_of(config.model, tokenizer)
    frozen = read_autoencoder(config)
    batches = make_image_batches(config, config.model.system, pictures, prompts)
    optimizer = train.make_optimizer(config.optimizer, config.steps)
    step, state = make_step(config, prompts, optimizer), init(config, optimizer, mesh)
    module = make_denoiser(config.model.denoiser)
    return ImageRun(module, prompts, batches, state, parallel.compile(step, mesh), frozen, mesh)


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


def read_autoencoder(config: PretrainImagesConfig) -> dict[str, Any]:
    """The frozen autoencoder, if the config names one.

    Raises:
      InputError: what it names holds none, or one of another config, or the model expects one and none is named.
    """
    from fmzoo.pretrained import load

    if config.autoencoder is None:
        if config.model.autoencoder is not None:
            raise InputError("autoencoder is None and model.autoencoder is set; the source of its weights is needed")
        return {}
    source = load(config.autoencoder)
    if getattr(source.config, "autoencoder", None) != config.model.autoencoder:
        raise InputError(f"autoencoder {config.autoencoder} does not hold the one that model.autoencoder describes")
    return {"autoencoder": source.params["autoencoder"]}


def make_image_batches(
    config: Any, system: TextToImageConfig, pictures: Sequence[data.Picture], prompts: text.PromptTokenizer | None
) -> data.ImageIterator:
    """This process's rows of pictures, with what the denoiser is told of each.

    Args:
      config: of a stage, with ``batch_size``, ``crop``, ``flip``, ``data_seed`` and ``workers``.
      system: that is trained.
      pictures: what `fmzoo.data.images` gives.
      prompts: the tokenizer of captions.
    """
    mine, coder = config.batch_size // jax.process_count(), system.autoencoder
    factor, channels = (1, system.denoiser.in_channels) if coder is None else (coder.factor, coder.image_channels)
    side = system.denoiser.sample_size * factor
    fields = ["caption"] if prompts is not None else []
    fields += [name for name in ("label", "time_ids") if name in needed_conditions(system.denoiser)]
    return data.ImageIterator(
        pictures,
        data.Framing(side, side, channels, config.crop, config.flip, factor),
        batch_size=config.batch_size,
        rows=range(mine * jax.process_index(), mine * (jax.process_index() + 1)),
        seed=config.data_seed,
        fields=fields,
        tokenize=None if prompts is None else functools.partial(_tokenize, prompts),
        workers=config.workers,
    )


def _tokenize(prompts: text.PromptTokenizer, caption: str) -> dict[str, np.ndarray]:
    return {name: rows[0] for name, rows in prompts.encode([caption]).items()}


def make_objective(
    system: TextToImageConfig, prompts: text.PromptTokenizer | None, **options: Any
) -> objectives.ObjectiveFn:
    """The denoising loss of a system on batches of `make_image_batches`; what is trained is what the state holds.

    Args:
      system: its config.
      prompts: the tokenizer of captions.
      **options: of `fmzoo.objectives.denoising`.
    """
    module, needed = make_denoiser(system.denoiser), needed_conditions(system.denoiser)
    empty: dict[str, Any] = {} if prompts is None else _tokenize(prompts, "")
    if "label" in needed:
        empty["label"] = class_count(system.denoiser)

    def say(parts: Any, x: jax.Array, t: jax.Array, conditions: Any, keys: jax.Array) -> jax.Array:
        return denoise(module, parts["denoiser"], x, t, conditions, keys)

    def condition(parts: Any, batch: Any) -> dict[str, jax.Array]:
        told = {name: batch[name] for name in ("label", "time_ids") if name in needed}
        rows = {name: batch[name] for name in system.encoders}
        return told | encode_prompts(system, parts, rows) if rows else told

    def latents(parts: Any, image: jax.Array, keys: jax.Array) -> jax.Array:
        coder = AutoencoderKL(system.autoencoder)
        moments = coder.apply({"params": parts["autoencoder"]}, image, method="encode")
        return to_latents(system.autoencoder, *moments, keys)

    encoded = None if system.autoencoder is None else latents
    return objectives.denoising(say, system.process, condition=condition, to_latents=encoded, empty=empty, **options)


def make_step(config: PretrainImagesConfig, prompts: text.PromptTokenizer | None, optimizer: Any) -> train.Step:
    """The step of this stage, not compiled: gradient, update, skipping, and a moving average if there is one."""
    objective = make_objective(
        config.model.system, prompts, dropout=config.dropout, density=config.density, weighting=config.weighting,
        offset_noise=config.offset_noise,
    )  # fmt: skip
    step = train.update(train.gradients(objective, microbatches=config.microbatches), optimizer)
    step = train.skip_nonfinite(step)
    return train.moving_average(step, config.ema) if config.ema else step


def init(config: PretrainImagesConfig, optimizer: Any, mesh: jax.sharding.Mesh) -> train.State:
    """The state at step 0, whole on every device."""
    key, noise = jax.random.split(jax.random.key(config.seed))

    @functools.partial(jax.jit, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    def make() -> train.State:
        params = init_params(config.model, key)
        return train.init_state(params, optimizer, noise, ema=config.ema > 0, copy=False)

    return make()


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
    workdir = train.locate(workdir)
    started, finished = parallel.from_first(lambda: (check_workdir(config, workdir), is_finished(config, workdir)))
    if finished:
        return True
    run = prepare(config, text.load_tokenizer(workdir / "tokenizer") if started and config.model.encoder else None)
    with nothing_left(workdir, unless=started), run.batches:
        if jax.process_index() == 0:
            open_workdir(config, workdir, run.tokenizer and next(iter(run.tokenizer.tokenizers.values())))
        state, finished = train.fit(
            run.step, run.state, run.frozen, run.batches, config.fit, workdir, merge=data.merge_states
        )
    if finished and jax.process_index() == 0:
        from fmzoo.stages.image_report import report_images, training_prompts

        trained = jax.device_get(train.average_params(state)) if jax.process_count() == 1 else None
        params = trained and {**trained, **run.frozen}
        pretrained = Pretrained(run.module, params, config.model.system, run.tokenizer)
        report_images(config, workdir, pretrained, training_prompts(config, pretrained))
    return finished
