"""Pretraining: next-token prediction over packed documents, from a config to a run folder."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from fmzoo import data, models, objectives, parallel, text, train
from fmzoo.errors import InputError
from fmzoo.models.checks import check, check_positive
from fmzoo.stages.training_run import check_run, fit_config, make_state, open_mesh, own_rows, refine, run_in_folder

Packing = Literal["concatenate_and_split", "first_fit"]


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides a pretraining run; it is written whole into the run's folder."""

    stage: ClassVar[str] = "pretrain"  # the mark of a run folder's config
    model: models.DecoderConfig = models.DecoderConfig()
    optimizer: train.OptimizerConfig = train.OptimizerConfig()
    data: str = "classics"  # what `fmzoo.data.source` opens
    field: str = "text"
    tokenizer: str = "bpe"  # bpe: trained on the data to model.vocab_size; byte; or the path of one
    packing: Packing = "concatenate_and_split"
    batch_size: int = 8  # sequences in a step, over all devices and hosts
    sequence_length: int = 256
    microbatches: int = 1
    steps: int = 1000
    seed: int = 0  # initial weights and dropout
    data_seed: int = 0  # order of the documents
    ema: float = 0.0  # decay of a moving average of the weights; 0 keeps none
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    balance: float = 0.0  # coefficient of the loss that spreads tokens over experts
    router_z: float = 0.0  # coefficient of the squared log-normaliser of their routers
    loss_chunk: int | None = None  # positions of which logits are held at a time
    checkpoint_every: int = 250
    keep_checkpoints: int | None = 3
    keep_every: int | None = None
    nonfinite_patience: int = 10
    mesh: str = "data=-1"
    workers: int = 0  # processes that prepare batches
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range and parts that do not fit together."""
        check_run(self, "sequence_length")
        check_positive(self, "loss_chunk")
        for name in ("z_loss", "balance", "router_z"):
            check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; at least 0 is needed")
        check(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}; 0 to below 1 is needed")
        if self.sequence_length > self.model.context_length:
            raise InputError(
                f"sequence_length {self.sequence_length} is over model.context_length {self.model.context_length}; "
                "at most that is needed"
            )

    @property
    def fit(self) -> train.FitConfig:
        """The part that the loop reads."""
        return fit_config(self)


def _small(d_model: int, layers: int, heads: int, kv_heads: int, vocab: int, window: int) -> models.DecoderConfig:
    """A small decoder; its window is the training length, so that it reads and writes beyond with no distance new."""
    return models.DecoderConfig(
        vocab_size=vocab,
        d_model=d_model,
        num_layers=layers,
        context_length=1024,
        attention=models.AttentionConfig(heads, kv_heads, d_model // heads, window=window),
        mlp=models.MlpConfig(d_ff=-(-8 * d_model // 3 // 64) * 64),
        pattern=("local",),
        tied_head=True,
        layers="unrolled",
        transposed_inputs=True,
    )


PRESETS = {
    "tiny": PretrainConfig(
        model=_small(64, 2, 4, 2, 512, 64), batch_size=8, sequence_length=64, steps=200, checkpoint_every=100,
        optimizer=train.OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
    ),
    "small": PretrainConfig(
        model=_small(256, 6, 8, 4, 2048, 256), batch_size=16, sequence_length=256, steps=1200,
        optimizer=train.OptimizerConfig(name="muon", learning_rate=4e-3, schedule="wsd", final_fraction=0.0),
    ),
}  # fmt: skip


class Run(NamedTuple):
    """What a pretraining run is made of, ready for `fmzoo.train.fit` or a loop of one's own."""

    module: models.Decoder
    tokenizer: text.Tokenizer
    documents: Sequence[str]
    batches: data.TextIterator
    state: train.State
    step: train.Step
    mesh: jax.sharding.Mesh
    frozen: dict[str, Any] = {}  # noqa: RUF012 -- nothing is


def prepare(config: PretrainConfig, tokenizer: text.Tokenizer | None = None) -> Run:
    """Opens the data, makes or loads the tokenizer, the model, its state and the compiled step; nothing is written.

    Raises:
      InputError: the data, the mesh or the tokenizer do not fit the config.
    """
    mesh = open_mesh(config)
    models.check_mesh(config.model, mesh.shape["tensor"], mesh.shape["expert"])
    documents = data.source(config.data, split="train", field=config.field)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, documents)
    batches = data.TextIterator(
        documents,
        tokenizer,
        batch_size=config.batch_size,
        length=config.sequence_length,
        rows=own_rows(config),
        seed=config.data_seed,
        packing=config.packing,
        vocab_size=config.model.vocab_size,
        workers=config.workers,
    )
    module = models.Decoder(config.model)
    optimizer = train.make_optimizer(config.optimizer, config.steps)
    step = make_step(config, module, optimizer)
    state = init(config, module, optimizer, mesh)
    return Run(module, tokenizer, documents, batches, state, parallel.compile(step, mesh, models.DECODER_RULES), mesh)


def make_tokenizer(config: PretrainConfig, documents: Sequence[str]) -> text.Tokenizer:
    """The tokenizer that a config names, a BPE being trained on the documents.

    Raises:
      InputError: there is none at the path, or it has more tokens than the model.
    """
    if config.tokenizer == "bpe":
        tokenizer = text.train_bpe(documents, config.model.vocab_size)
    elif config.tokenizer == "byte":
        tokenizer = text.ByteTokenizer()
    else:
        tokenizer = text.load_tokenizer(config.tokenizer)
        if tokenizer is None:
            raise InputError(f"tokenizer {config.tokenizer!r} holds none; bpe, byte or a path of one is needed")
    if tokenizer.vocab_size > config.model.vocab_size:
        raise InputError(
            f"tokenizer has {tokenizer.vocab_size} tokens and model.vocab_size is {config.model.vocab_size}; "
            "at least as many are needed"
        )
    return tokenizer


def make_step(config: PretrainConfig, module: models.Decoder, optimizer: Any) -> train.Step:
    """The step of this stage, not compiled: gradient, update, skipping, and a moving average if there is one."""
    objective = objectives.next_token(
        module, z_loss=config.z_loss, label_smoothing=config.label_smoothing, chunk=config.loss_chunk,
        balance=config.balance, router_z=config.router_z,
    )  # fmt: skip
    step = train.update(train.gradients(objective, microbatches=config.microbatches), optimizer)
    return refine(step, config.ema)


def init(config: PretrainConfig, module: models.Decoder, optimizer: Any, mesh: jax.sharding.Mesh) -> train.State:
    """The state at step 0, each device making its own part."""
    key, noise = jax.random.split(jax.random.key(config.seed))
    plain = models.Decoder(models.replace(module.config, attention__implementation="xla"))  # runs at any length

    def make() -> train.State:
        params = plain.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
        return train.init_state(params, optimizer, noise, ema=config.ema > 0, copy=False)

    return make_state(make, mesh, models.DECODER_RULES)


def pretrain(config: PretrainConfig, workdir: epath.PathLike) -> bool:
    """Runs a config in a folder, or goes on where that folder's run stopped.

    The folder gets ``config.json``, ``tokenizer/``, ``metrics.jsonl``, ``checkpoints/STEP/`` and, at the end,
    ``report.md`` with a plot.

    Returns:
      Whether the run is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds another run, or anything that `prepare` or `fmzoo.train.fit` refuses. Nothing is left
        that was not there before.
    """

    def begin(kept: epath.Path | None) -> Run:
        return prepare(config, text.load_tokenizer(kept) if kept else None)

    def report(folder: epath.Path, run: Run, params: Any) -> None:
        from fmzoo.stages.report import write_report

        write_report(config, folder, models.Pretrained(run.module, params, config.model, run.tokenizer))

    tokens = config.batch_size * config.sequence_length
    return run_in_folder(
        config, workdir, begin, report, tokenizer_of=lambda run: run.tokenizer, tokens=tokens,
        flops=tokens * models.flops_per_token(config.model, config.sequence_length),
    )  # fmt: skip
