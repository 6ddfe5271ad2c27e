"""What commands share: starting to compute, and loading a model of text."""

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fmzoo.errors import InputError

Source = Positional[Annotated[str, arg(metavar="SOURCE")]]


def start_computing() -> None:
    """Sets up this process for JAX: the allocator keeps its memory, and what was compiled is kept between runs.

    What libraries log of checkpoints is left out: standard error is for one sentence about a mistake.
    Compiled programs go to ``~/.cache/fmzoo/xla``, or ``$XDG_CACHE_HOME/fmzoo/xla``; ``JAX_COMPILATION_CACHE_DIR`` puts
    them elsewhere, or nowhere if it is empty.
    """
    from fmzoo.parallel.allocator import keep_heap

    keep_heap()
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if getattr(sys.unraisablehook, "func", None) is not _hear_unraisable:
        sys.unraisablehook = functools.partial(_hear_unraisable, sys.unraisablehook)
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "fmzoo", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _hear_unraisable(others: Callable[[Any], None], error: Any) -> None:
    """Passes over what the readers of a damaged checkpoint say after its sentence was said."""
    if not (isinstance(error.exc_value, RuntimeError) and "Event loop is closed" in str(error.exc_value)):
        others(error)


def load_text(source: str) -> Any:
    """Loads a model of text.

    Raises:
      InputError: it is one of images.
    """
    from fmzoo import load, models

    pretrained = load(source)
    if not isinstance(pretrained.config, models.DecoderConfig):
        raise InputError(f"source {source} is a model of images; one of text is needed (fmzoo draw is for images)")
    return pretrained
