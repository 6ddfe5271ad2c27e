"""Pretraining of autoencoders of pictures: reconstruction against a discriminator, from a config to a run folder."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from fmzoo import data, models, objectives, parallel, train
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL
from fmzoo.models.autoencoder_sharding import AUTOENCODER_RULES
from fmzoo.models.checks import check
from fmzoo.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from fmzoo.stages.training_run import check_run, make_state, open_mesh, own_rows, refine, run_in_folder

AUTOENCODER, DISCRIMINATOR = "autoencoder", "discriminator"  # the names of the two states


@dataclasses.dataclass(frozen=True)
class PretrainAutoencoderConfig:
    """Everything that decides a run; it is written whole into the run's folder."""

    stage: ClassVar[str] = "pretrain_autoencoder"  # the mark of a run folder's config
    model: AutoencoderConfig = AutoencoderConfig()
    discriminator: DiscriminatorConfig | None = DiscriminatorConfig()  # None leaves the adversarial term away
    optimizer: train.OptimizerConfig = train.OptimizerConfig()  # of both states, each with moments of its own
    data: str = "emoji"  # what `fmzoo.data.images` opens
    size: int = 32  # rows and columns that pictures are brought to
    crop: Literal["centre", "random"] = "centre"
    flip: float = 0.0  # the probability of a horizontal flip
    kl: float = 1e-6  # coefficient of the latent's divergence from the normal
    adversarial: float = 0.5  # coefficient of deceiving the discriminator
    adaptive: bool = True  # times the ratio of the reconstruction's gradient to the adversarial one
    squared: float = 0.0  # how much the squared difference adds to the absolute one
    batch_size: int = 32  # pictures in a step, over all devices and hosts
    microbatches: int = 1
    steps: int = 1000
    seed: int = 0  # initial weights and draws of the latent
    data_seed: int = 0  # order, crops and flips of the pictures
    ema: float = 0.0  # decay of a moving average of the autoencoder's weights; 0 keeps none
    checkpoint_every: int = 250
    keep_checkpoints: int | None = 3
    keep_every: int | None = None
    nonfinite_patience: int = 10
    mesh: str = "data=-1"
    workers: int = 0  # processes that decode and prepare batches
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_run(self, "size")
        for name in ("kl", "adversarial", "squared"):
            check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; at least 0 is needed")
        check(
            self.size % self.model.factor == 0,
            f"size is {self.size}; a multiple of the autoencoder's factor {self.model.factor} is needed",
        )
        if self.discriminator is not None:
            channels, least = self.discriminator.image_channels, 3 * 2**self.discriminator.num_layers
            check(
                channels == self.model.image_channels,
                f"discriminator.image_channels is {channels} and model.image_channels {self.model.image_channels}; "
                "the same is needed",
            )
            check(self.size >= least, f"size is {self.size} and the discriminator's patches need {least}")


def _preset(data: str, size: int, model: AutoencoderConfig, halvings: int, **changes: Any) -> PretrainAutoencoderConfig:
    """A small autoencoder with a small discriminator."""
    return PretrainAutoencoderConfig(
        model=model, data=data, size=size,
        discriminator=DiscriminatorConfig(model.image_channels, 32, halvings, norm_groups=8),
        optimizer=train.OptimizerConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=0.0),
        adversarial=0.1, ema=0.995, **changes,
    )  # fmt: skip


AUTOENCODER_PRESETS = {
    "digits-autoencoder": _preset(
        "digits", 8, AutoencoderConfig(1, 4, (32, 64), 1, 8, mid_attention=False), 1, batch_size=64, steps=800,
        checkpoint_every=200,
    ),
    "emoji-autoencoder": _preset(
        "emoji", 32, AutoencoderConfig(3, 4, (32, 64), 1, 8, mid_attention=False), 2, batch_size=16, steps=1500,
        checkpoint_every=250,
    ),
}  # fmt: skip


class AutoencoderRun(NamedTuple):
    """What a run is made of, ready for `fmzoo.train.fit` or a loop of one's own."""

    module: AutoencoderKL
    batches: data.ImageIterator
    state: dict[str, train.State]
    step: train.Step
    mesh: jax.sharding.Mesh
    frozen: Mapping[str, Any] = {}  # noqa: RUF012 -- nothing is


def prepare(config: PretrainAutoencoderConfig) -> AutoencoderRun:
    """Opens the data, makes the two states and the compiled step; nothing is written.

    Raises:
      InputError: the data or the mesh do not fit the config.
    """
    mesh = open_mesh(config)
    batches = data.ImageIterator(
        data.images(config.data),
        framing(config),
        batch_size=config.batch_size,
        rows=own_rows(config),
        seed=config.data_seed,
        fields=(),
        workers=config.workers,
    )
    optimizer = train.make_optimizer(config.optimizer, config.steps)
    step = parallel.compile(make_step(config, optimizer), mesh, AUTOENCODER_RULES)
    return AutoencoderRun(AutoencoderKL(config.model), batches, init(config, optimizer, mesh), step, mesh)


def framing(config: PretrainAutoencoderConfig) -> data.Framing:
    """How pictures are brought to the size that is trained at."""
    sides = config.size, config.size
    return data.Framing(*sides, config.model.image_channels, config.crop, config.flip, config.model.factor)


def make_step(config: PretrainAutoencoderConfig, optimizer: Any) -> train.Step:
    """The step of this stage, not compiled: first the autoencoder, then the discriminator on what is made by then."""
    module = AutoencoderKL(config.model)

    def follow(name: str, objective: Any, coefficients: Any, ema: float) -> train.Step:
        gradients = train.gradients(objective, coefficients, microbatches=config.microbatches)
        return train.on(name, refine(train.update(gradients, optimizer), ema))

    critic = None if config.discriminator is None else PatchDiscriminator(config.discriminator)
    objective = objectives.autoencoding(module, critic, adaptive=config.adaptive, squared=config.squared)
    if critic is None:
        return follow(AUTOENCODER, objective, {"kl": config.kl}, config.ema)
    coefficients = {"kl": config.kl, "adversarial": config.adversarial}
    return train.in_turn(
        follow(AUTOENCODER, objective, coefficients, config.ema),
        follow(DISCRIMINATOR, objectives.discrimination(module, critic), None, 0.0),
    )


def init(config: PretrainAutoencoderConfig, optimizer: Any, mesh: jax.sharding.Mesh) -> dict[str, train.State]:
    """The states at step 0, each device making its own part."""
    image = jnp.zeros((1, config.size, config.size, config.model.image_channels))
    modules = {AUTOENCODER: AutoencoderKL(config.model)}
    if config.discriminator is not None:
        modules[DISCRIMINATOR] = PatchDiscriminator(config.discriminator)

    def make() -> dict[str, train.State]:
        states = {}
        for number, (name, module) in enumerate(modules.items()):
            key, noise = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number))
            ema = config.ema > 0 and name == AUTOENCODER
            states[name] = train.init_state(module.init(key, image)["params"], optimizer, noise, ema=ema, copy=False)
        return states

    return make_state(make, mesh, AUTOENCODER_RULES)


def pretrain_autoencoder(config: PretrainAutoencoderConfig, workdir: epath.PathLike) -> bool:
    """Runs a config in a folder, or goes on where that folder's run stopped.

    The folder gets ``config.json``, ``metrics.jsonl``, ``checkpoints/STEP/`` and, at the end, ``latents.json`` with the
    scale and the shift that bring latents to mean 0 and deviation 1, and ``report.md`` with a plot and pictures beside
    their reconstructions. `fmzoo.load` gives the autoencoder.

    Returns:
      Whether the run is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds another run, or anything that `prepare` or `fmzoo.train.fit` refuses. Nothing is left
        that was not there before.
    """

    def report(folder: epath.Path, run: AutoencoderRun, params: Any) -> None:
        from fmzoo.stages.autoencoder_report import report_autoencoder

        pretrained = models.Pretrained(run.module, params and params[AUTOENCODER], config.model)
        report_autoencoder(config, folder, pretrained, framing(config))

    return run_in_folder(config, workdir, lambda kept: prepare(config), report)
