"""Instruction tuning of a decoder: the next token of answers, by all parameters or by adapters over a frozen base."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
from etils import epath
from flax import linen as nn

from fmzoo import data, models, objectives, parallel, train
from fmzoo.data.conversations import Conversations
from fmzoo.errors import InputError
from fmzoo.generate import find_template
from fmzoo.models import DECODER_RULES, DecoderConfig, Pretrained
from fmzoo.pretrained import keeps_average, load
from fmzoo.stages.training_run import check_run, fit_config, make_state, open_mesh, own_rows, refine, run_in_folder

ALL_KERNELS = r"attention/(query|key|value|out)|mlp/(gate|up|down)"


@dataclasses.dataclass(frozen=True)
class FinetuneTextConfig:
    """Everything that decides a run; it is written whole into the run's folder."""

    stage: ClassVar[str] = "finetune_text"
    source: str = ""  # what `fmzoo.load` opens
    average: bool = True  # begin from the source's moving average, if it is a run that keeps one
    data: str = ""  # what `fmzoo.data.records` opens: conversations, instructions, problems, preferences
    format: str | None = None  # the layout of the records; None finds out
    chat_template: str | None = None  # a format's name, or Jinja; None is the source's own
    train_on: Literal["assistant", "last", "all"] = "assistant"  # every answer, the last one, or each token
    packing: Literal["first_fit", "concatenate_and_split"] = "first_fit"
    sequence_length: int = 512
    rank: int = 16  # of the adapters; 0 trains every parameter
    alpha: float = 32.0
    rank_stabilized: bool = False  # scale by alpha / sqrt(rank) (arXiv 2312.03732) in place of alpha / rank
    targets: str = ALL_KERNELS  # found in the path of a kernel's layer
    quantize: Literal["int8", "int4"] | None = None  # what the frozen base is kept in under adapters
    optimizer: train.OptimizerConfig = train.OptimizerConfig(learning_rate=2e-4, warmup_steps=20, weight_decay=0.0)
    dtype: Literal["float32", "bfloat16"] = "float32"  # that the model computes in
    remat: Literal["none", "full", "dots"] = "none"
    batch_size: int = 8
    microbatches: int = 1
    steps: int = 200
    seed: int = 0  # of the adapters and of dropout
    data_seed: int = 0  # order of the conversations
    ema: float = 0.0
    loss_chunk: int | None = 128  # positions of which logits are held at a time; None holds all
    checkpoint_every: int = 100
    keep_checkpoints: int | None = 3
    keep_every: int | None = None
    nonfinite_patience: int = 10
    mesh: str = "data=-1"
    workers: int = 0
    quiet: bool = False
    model: DecoderConfig | None = None  # the source's, for who reads the run's folder
    model_type: str | None = None  # likewise
    stop_ids: tuple[int, ...] = ()  # likewise

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_run(self, "sequence_length")
        if self.rank < 0:
            raise InputError(f"rank is {self.rank}; at least 0 is needed, which trains every parameter")
        if self.quantize is not None and self.rank == 0:
            raise InputError(f"quantize is {self.quantize!r} and rank 0 trains the base; a rank above 0 is needed")

    @property
    def scale(self) -> float:
        """What the product of the adapters is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    @property
    def fit(self) -> train.FitConfig:
        """The part that the loop reads."""
        return fit_config(self)


class FinetuneRun(NamedTuple):
    """What a run is made of."""

    pretrained: Pretrained
    batches: data.ChatIterator
    state: train.State
    step: train.Step
    frozen: dict[str, Any]


def read_source(config: FinetuneTextConfig) -> Pretrained:
    """The model that a run begins from, on the run's mesh, with the chat template that it is to learn.

    Raises:
      InputError: the source is no decoder with a tokenizer, has no chat template and none is named, or its context is
        shorter than the rows.
    """
    average = config.average and keeps_average(config.source)
    found = load(config.source, average=average, quantize=config.quantize, mesh=open_mesh(config))
    if not isinstance(found.config, DecoderConfig):
        raise InputError(f"source {config.source} is no decoder of text; one is needed")
    if models.separate(found.params)[1]:
        found = dataclasses.replace(found, params=models.merge(*models.separate(found.params)))
    if config.sequence_length > found.config.context_length:
        raise InputError(
            f"sequence_length {config.sequence_length} is over the context of the source, "
            f"{found.config.context_length}; at most that is needed"
        )
    told = models.replace(found.config, dtype=config.dtype, remat=config.remat)
    template = find_template(found, config.chat_template)
    return dataclasses.replace(found, module=models.Decoder(told), config=told, chat_template=template)


def told_by(config: FinetuneTextConfig, source: Pretrained) -> FinetuneTextConfig:
    """The config with what it leaves to its source."""
    facts = {name: getattr(source, name) for name in ("chat_template", "model_type", "stop_ids")}
    return dataclasses.replace(config, model=source.config, **facts)


def make_chat(config: FinetuneTextConfig, source: Pretrained) -> data.ChatRows:
    """How conversations become rows."""
    return data.ChatRows(source.chat_template, source.tokenizer, config.sequence_length)


def make_objective(config: FinetuneTextConfig, module: nn.Module) -> objectives.ObjectiveFn:
    """The loss on answers, of adapters over ``frozen["base"]`` or of every parameter."""
    objective = objectives.next_token(module, chunk=config.loss_chunk)
    return objectives.adapted(objective, scale=config.scale) if config.rank else objective


def make_step(config: FinetuneTextConfig, module: nn.Module, optimizer: Any) -> train.Step:
    """The step of this stage, not compiled."""
    gradients = train.gradients(make_objective(config, module), microbatches=config.microbatches)
    return refine(train.update(gradients, optimizer), config.ema)


def init(config: FinetuneTextConfig, base: Any, optimizer: Any, mesh: jax.sharding.Mesh) -> train.State:
    """The state at step 0, each device making or copying its own part.

    Raises:
      InputError: the targets match nothing.
    """
    key, noise = jax.random.split(jax.random.key(config.seed))
    shapes = jax.eval_shape(lambda: base)

    def make(*trained: Any) -> train.State:
        params = models.init_lora(key, shapes, config.rank, config.targets) if config.rank else trained[0]
        return train.init_state(params, optimizer, noise, ema=config.ema > 0, copy=False)

    return make_state(make, mesh, DECODER_RULES, *([] if config.rank else [base]))


def prepare(config: FinetuneTextConfig, source: Pretrained | None = None) -> FinetuneRun:
    """Loads the source, opens the data, and makes the state and the compiled step; nothing is written.

    Args:
      config: of the run.
      source: what `read_source` gave; None reads it.

    Raises:
      InputError: as `read_source`, or the data does not fit.
    """
    source, mesh = source or read_source(config), open_mesh(config)
    batches = data.ChatIterator(
        Conversations(data.records(config.data, format=config.format)),
        make_chat(config, source),
        batch_size=config.batch_size,
        rows=own_rows(config),
        seed=config.data_seed,
        train_on=config.train_on,
        packing=config.packing,
        vocab_size=source.config.vocab_size,
        workers=config.workers,
    )
    optimizer = train.make_optimizer(config.optimizer, config.steps)
    step = parallel.compile(make_step(config, source.module, optimizer), mesh, DECODER_RULES)
    frozen = {"base": source.params} if config.rank else {}
    return FinetuneRun(source, batches, init(config, source.params, optimizer, mesh), step, frozen)


def finetune_text(config: FinetuneTextConfig, workdir: epath.PathLike) -> bool:
    """Runs a config in a folder, or goes on where that folder's run stopped.

    The folder gets ``config.json``, ``tokenizer/``, ``frozen/`` under adapters, ``metrics.jsonl``,
    ``checkpoints/STEP/`` and, at the end, ``report.md``; `fmzoo.load` gives the source with the adapters over it, or
    the parameters that were trained.

    Returns:
      Whether the run is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds another run, or as `prepare`. Nothing is left that was not there before.
    """
    source = read_source(config)
    config = told_by(config, source)

    def report(folder: epath.Path, run: FinetuneRun, params: Any) -> None:
        from fmzoo.stages.finetune_report import write_report

        write_report(config, folder, run, params)

    return run_in_folder(
        config, workdir, lambda kept: prepare(config, source), report,
        tokenizer_of=lambda run: run.pretrained.tokenizer, tokens=config.batch_size * config.sequence_length,
    )  # fmt: skip
