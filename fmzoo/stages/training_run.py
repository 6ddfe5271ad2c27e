"""A training run, whatever it trains: what its config must hold, where its state lies, how it goes on in its folder."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
from etils import epath

from fmzoo import data, parallel, text, train
from fmzoo.errors import InputError
from fmzoo.models.checks import check_seed
from fmzoo.stages.run_folder import check_workdir, is_finished, nothing_left, open_workdir


class Run(Protocol):
    """What a run is made of."""

    state: Any
    step: train.Step
    frozen: dict[str, Any]
    batches: Any  # a `fmzoo.train.fit` stream and a context that ends its workers


RunT = TypeVar("RunT", bound=Run)


def check_run(config: Any, *counts: str) -> None:
    """Refuses what no run can have.

    Args:
      config: of a stage: with ``batch_size``, ``microbatches``, ``seed``, ``data_seed``, ``ema``, ``mesh``, the fields
        of `fmzoo.train.FitConfig` and perhaps ``dropout``.
      counts: further fields that are at least 1.

    Raises:
      InputError: a value is out of range, or the rows do not divide.
    """
    fit_config(config)
    for name in ("batch_size", *counts, "microbatches"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; at least 1 is needed")
    for name in ("seed", "data_seed"):
        check_seed(config, name)
    for name in ("ema", "dropout"):
        if not 0 <= getattr(config, name, 0) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; at least 0 and below 1 is needed")
    parallel.check_rows(config.batch_size, config.microbatches, "microbatches")
    parallel.parse_mesh(config.mesh)


def fit_config(config: Any) -> train.FitConfig:
    """The part of a stage's config that the loop reads."""
    return train.FitConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(train.FitConfig)})


def open_mesh(config: Any) -> jax.sharding.Mesh:
    """The mesh of a config.

    Raises:
      InputError: it does not fill the devices, or the rows do not divide over them.
    """
    mesh = parallel.mesh(config.mesh)
    parallel.check_rows(config.batch_size // config.microbatches, mesh.shape["data"] * mesh.shape["fsdp"], "devices")
    parallel.check_rows(config.batch_size, jax.process_count(), "hosts")
    return mesh


def own_rows(config: Any) -> range:
    """The rows of a batch that this process prepares."""
    mine = config.batch_size // jax.process_count()
    return range(mine * jax.process_index(), mine * (jax.process_index() + 1))


def refine(step: train.Step, ema: float) -> train.Step:
    """A step that skips what is not finite and, if ``ema`` is above 0, keeps a moving average."""
    step = train.skip_nonfinite(step)
    return train.moving_average(step, ema) if ema else step


def make_state(make: Callable[..., Any], mesh: jax.sharding.Mesh, rules: parallel.Rules, *told: Any) -> Any:
    """The state that a function makes of what it is told, each device making its own part."""
    shardings = parallel.state_shardings(jax.eval_shape(make, *told), mesh, rules)
    return jax.jit(make, out_shardings=shardings)(*told)


def run_in_folder(
    config: Any,
    workdir: epath.PathLike,
    prepare: Callable[[epath.Path | None], RunT],
    report: Callable[[epath.Path, RunT, Any], None],
    *,
    tokenizer_of: Callable[[RunT], text.Tokenizer | None] = lambda run: None,
    merge: Callable[[list[dict[str, Any]]], dict[str, Any]] = data.merge_states,
    tokens: int = 0,
    flops: float = 0.0,
) -> bool:
    """Runs a config in a folder, or goes on where that folder's run stopped.

    Args:
      config: of the stage.
      workdir: gets ``config.json``, ``tokenizer/`` if there is one, and what `fmzoo.train.fit` and the report write.
      prepare: makes the run and writes nothing; it is given ``tokenizer/`` of a folder that holds the run already, else
        None.
      report: ``(workdir, run, params)``, called once at the end; with several hosts, which have the parameters nowhere
        whole, ``params`` is None.
      tokenizer_of: what of the run is kept as ``tokenizer/``.
      merge: joins the data positions of all hosts.
      tokens: in a global batch, for the speed shown.
      flops: of a step, for the share of the machine shown.

    Returns:
      Whether the run is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds another run, or anything that ``prepare`` or `fmzoo.train.fit` refuses. Nothing is
        left that was not there before.
    """
    workdir = train.locate(workdir)
    started, finished = parallel.from_first(lambda: (check_workdir(config, workdir), is_finished(config, workdir)))
    if finished:
        return True
    run = prepare(workdir / "tokenizer" if started else None)
    with nothing_left(workdir, unless=started), run.batches:
        if jax.process_index() == 0:
            open_workdir(config, workdir, tokenizer_of(run))
        state, finished = train.fit(
            run.step, run.state, run.frozen, run.batches, fit_config(config), workdir, tokens=tokens, flops=flops,
            merge=merge,
        )  # fmt: skip
    if finished and jax.process_index() == 0:
        report(workdir, run, jax.device_get(averages(state)) if jax.process_count() == 1 else None)
    return finished


def averages(state: Any) -> Any:
    """The parameters of a state, of each of several by its name, averaged where an average is kept."""
    if isinstance(state, train.State):
        return train.average_params(state)
    return {name: train.average_params(one) for name, one in state.items()}
