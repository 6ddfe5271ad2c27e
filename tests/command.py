"""Runs the `fmzoo` command inside this process, as the shell would."""

import contextlib
import io
from typing import NamedTuple

import jax

from fmzoo.cli import main

SMALL = (
    *("--model.d-model", "16", "--model.num-layers", "1", "--model.mlp.d-ff", "32", "--model.context-length", "64"),
    *("--model.attention.num-heads", "2", "--model.attention.num-kv-heads", "1", "--model.attention.head-dim", "8"),
    *(
        "--model.vocab-size",
        "258",
        "--sequence-length",
        "32",
        "--tokenizer",
        "byte",
        "--steps",
        "4",
        "--checkpoint-every",
        "2",
    ),
)


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def fmzoo(*arguments) -> Ended:
    """Runs ``fmzoo ARGUMENTS``; what the command changes of JAX's settings is undone."""
    out, err = io.StringIO(), io.StringIO()
    with _settings_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return Ended(status or 0, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _settings_kept():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def files_below(*folders) -> set[str]:
    """Every file and folder in some folders."""
    return {str(path) for folder in folders for path in folder.rglob("*")}
