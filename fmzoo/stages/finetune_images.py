"""Fine-tuning of image models by low-rank adapters, on captioned pictures or on a few of one thing (DreamBooth)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from etils import epath

from fmzoo import data, generate, models, objectives, parallel, train
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.models.system_sharding import system_rules
from fmzoo.models.text_to_image import TextToImageConfig
from fmzoo.pretrained import keeps_average, load
from fmzoo.stages import image_training
from fmzoo.stages.image_report import report_images, training_prompts
from fmzoo.stages.image_training import Batches, check_latents, make_objective
from fmzoo.stages.training_run import check_run, fit_config, make_state, open_mesh, refine, run_in_folder

PRIOR_IDS = 2**30  # example ids of class pictures begin here, so that they draw noise of their own


@dataclasses.dataclass(frozen=True)
class FinetuneImagesConfig:
    """Everything that decides a run; it is written whole into the run's folder."""

    stage: ClassVar[str] = "finetune_images"
    source: str = ""  # what `fmzoo.load` opens
    average: bool = True  # begin from the source's moving average, if it is a run that keeps one
    data: str = ""  # what `fmzoo.data.images` opens: a folder of pictures, with captions if there is no prompt
    prompt: str | None = None  # of every picture, in place of its caption: "a photo of sks dog"
    class_prompt: str | None = None  # DreamBooth's prior preservation: "a photo of a dog"
    class_count: int = 64  # pictures of the class that the model draws before it is trained
    prior_weight: float = 1.0
    rank: int = 4
    alpha: float = 4.0
    targets: str = r"denoiser/.*attention/(query|key|value|out)"  # found in the path of a kernel's layer
    optimizer: train.OptimizerConfig = train.OptimizerConfig(learning_rate=1e-4, schedule="constant", weight_decay=0.01)
    crop: Literal["centre", "random"] = "centre"
    flip: float = 0.0
    latents: Literal["encode", "cache"] = "encode"  # at each step; or once, before the first, and kept in memory
    posterior: Literal["sample", "mean"] = "sample"  # what of the autoencoder's Gaussian a latent is
    batch_size: int = 4  # pictures in a step; with a class_prompt as many of the class beside them
    microbatches: int = 1
    steps: int = 400
    seed: int = 0
    data_seed: int = 0
    ema: float = 0.0
    dropout: float = 0.0
    density: str = "uniform"
    weighting: str = "none"
    offset_noise: float = 0.0
    checkpoint_every: int = 100
    keep_checkpoints: int | None = 3
    keep_every: int | None = None
    nonfinite_patience: int = 10
    mesh: str = "data=-1"
    workers: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_run(self, "rank", "class_count")
        check_latents(self)
        if self.class_prompt is not None and self.prompt is None:
            raise InputError("class_prompt is given and prompt is None; the prompt of the one thing is needed")

    @property
    def scale(self) -> float:
        """What the product of the adapters is multiplied by."""
        return self.alpha / self.rank

    @property
    def fit(self) -> train.FitConfig:
        """The part that the loop reads."""
        return fit_config(self)


class Captioned(Sequence[data.Picture]):
    """Pictures that all have one caption."""

    def __init__(self, pictures: Sequence[data.Picture], caption: str):
        self._pictures, self._caption, self.classes = pictures, caption, ()

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> data.Picture:
        return self._pictures[index]._replace(caption=self._caption)


class WithPrior:
    """Batches of one thing with as many of its class behind them, each counted by its own field of weights."""

    def __init__(self, things: Batches, class_pictures: Batches):
        self._parts = {"things": things, "class": class_pictures}

    def __next__(self) -> dict[str, np.ndarray]:
        things, others = (next(part) for part in self._parts.values())
        others["example_id"] = others["example_id"] % PRIOR_IDS + PRIOR_IDS
        ones, zeros = things.pop("weights"), np.zeros_like(others.pop("weights"))
        joined = {name: np.concatenate([things[name], others[name]]) for name in things}
        return joined | {"weights": np.append(ones, zeros), "prior_weights": np.append(zeros, ones)}

    def get_state(self) -> dict[str, Any]:
        """The places of both."""
        return {name: part.get_state() for name, part in self._parts.items()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to both places."""
        for name, part in self._parts.items():
            part.set_state(state[name])

    def close(self) -> None:
        """Stops the worker processes."""
        for part in self._parts.values():
            part.close()

    def __enter__(self) -> "WithPrior":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def draw_class(pretrained: Pretrained, config: FinetuneImagesConfig) -> list[data.Picture]:
    """Pictures of the class at large, as the model draws them before it is trained."""
    key, found = jax.random.key(config.seed), []
    for first in range(0, config.class_count, config.batch_size):
        ids = range(first, min(first + config.batch_size, config.class_count))
        drawn = generate.images(pretrained, [config.class_prompt] * len(ids), key, example_ids=ids)
        found += [data.Picture(picture, config.class_prompt) for picture in drawn]
    return found


def make_batches(config: FinetuneImagesConfig, pretrained: Pretrained) -> Batches | WithPrior:
    """This process's rows of pictures, with those of the class if there is a class_prompt.

    Raises:
      InputError: there is no such data, or there are several processes and a class_prompt.
    """
    pictures = data.images(config.data)
    if config.prompt is not None:
        pictures = Captioned(pictures, config.prompt)

    def make(pictures: Sequence[data.Picture]) -> Batches:
        coder = pretrained.params.get("autoencoder")
        return image_training.make_batches(config, pretrained.config, pictures, pretrained.tokenizer, coder)

    if config.class_prompt is None:
        return make(pictures)
    if jax.process_count() > 1:
        raise InputError(f"class_prompt is given and there are {jax.process_count()} processes; one is needed")
    return WithPrior(make(pictures), make(Captioned(draw_class(pretrained, config), config.class_prompt)))


def make_step(config: FinetuneImagesConfig, pretrained: Pretrained, optimizer: Any) -> train.Step:
    """The step of this stage, not compiled: adapters are trained, ``frozen["base"]`` is not."""
    objective = make_objective(config, pretrained.config, pretrained.tokenizer)
    coefficients = {} if config.class_prompt is None else {"prior": config.prior_weight}
    adapted = objectives.adapted(objective, scale=config.scale)
    step = train.update(train.gradients(adapted, coefficients, microbatches=config.microbatches), optimizer)
    return refine(step, config.ema)


def init(config: FinetuneImagesConfig, pretrained: Pretrained, optimizer: Any, mesh: jax.sharding.Mesh) -> train.State:
    """The state at step 0, each device making its own part.

    Raises:
      InputError: the targets match nothing.
    """
    key, noise = jax.random.split(jax.random.key(config.seed))
    shapes = jax.eval_shape(lambda: pretrained.params)

    def make() -> train.State:
        adapters = models.init_lora(key, shapes, config.rank, config.targets)
        return train.init_state(adapters, optimizer, noise, ema=config.ema > 0, copy=False)

    return make_state(make, mesh, system_rules(pretrained.config))


class FinetuneRun(NamedTuple):
    """What a run is made of."""

    pretrained: Pretrained
    batches: Batches | WithPrior
    state: train.State
    step: train.Step
    frozen: dict[str, Any]


def prepare(config: FinetuneImagesConfig) -> FinetuneRun:
    """Loads the source, opens the data, draws pictures of the class, and makes the state; nothing is written.

    Raises:
      InputError: the source is no image model, or the data or the mesh does not fit.
    """
    mesh = open_mesh(config)
    pretrained = load(config.source, average=config.average and keeps_average(config.source))
    if not isinstance(pretrained.config, TextToImageConfig):
        raise InputError(f"source {config.source} is no system that draws; one is needed")
    rules, optimizer = system_rules(pretrained.config), train.make_optimizer(config.optimizer, config.steps)
    return FinetuneRun(
        pretrained,
        make_batches(config, pretrained),
        init(config, pretrained, optimizer, mesh),
        parallel.compile(make_step(config, pretrained, optimizer), mesh, rules),
        {"base": parallel.place(pretrained.params, mesh, rules)},
    )


def finetune_images(config: FinetuneImagesConfig, workdir: epath.PathLike) -> bool:
    """Runs a config in a folder, or goes on where that folder's run stopped.

    The folder is like that of `fmzoo.stages.pretrain_images`, with the source's parameters under ``frozen/``;
    `fmzoo.load` gives the source with the adapters merged.

    Returns:
      Whether the run is finished; False if it was told to stop.

    Raises:
      InputError: the source is no image model, the folder holds another run, or the data does not fit.
    """

    def report(folder: epath.Path, run: FinetuneRun, adapters: Any) -> None:
        base = run.pretrained
        params = adapters and models.merge(base.params, adapters, config.scale)
        prompts = [prompt for prompt in (config.prompt, config.class_prompt) if prompt is not None]
        report_images(
            config, folder, dataclasses.replace(base, params=params), prompts or training_prompts(config, base)
        )

    merge = data.merge_states if config.class_prompt is None else _first
    return run_in_folder(config, workdir, lambda kept: prepare(config), report, merge=merge)


def _first(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return states[0]
