"""The training state: all that is trained, counted or carried."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

Array = jax.Array


class State(struct.PyTreeNode):
    """One trained thing; a dict of these is a state too (`fmzoo.train.on`).

    Attributes:
      step: how many steps were taken, updates or not. shape=(), dtype=int32
      params: the trained parameters.
      opt_state: of the Optax transformation.
      rng: a typed key; each step folds its number into it, so it never changes. shape=()
      ema: a moving average of the parameters, or None.
      carry: small state that no gradient moves, or None.
    """

    step: Array
    params: Any
    opt_state: Any
    rng: Array
    ema: Any = None
    carry: Any = None


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    rng: Array,
    *,
    ema: bool = False,
    carry: Any = None,
    copy: bool = True,
) -> State:
    """A state at step 0.

    Args:
      params: the initial parameters.
      optimizer: whose state is made.
      rng: a typed key.
      ema: keep a moving average, which starts at the parameters.
      carry: initial carried state.
      copy: copy the parameters, so that donating the state never takes what the caller holds. Without, they are given
        away: the caller must not use them again.
    """

    def duplicate(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)

    params = duplicate(params) if copy else params
    average = duplicate(params) if ema else None
    held = {id(leaf) for leaf in jax.tree.leaves(params)}  # some optimizers remember the very arrays they began with
    opt_state = jax.tree.map(lambda leaf: duplicate(leaf) if id(leaf) in held else leaf, optimizer.init(params))
    return State(jnp.zeros((), jnp.int32), params, opt_state, duplicate(rng), average, duplicate(carry))


def average_params(state: State) -> Any:
    """The moving average if there is one, else the parameters."""
    return state.params if state.ema is None else state.ema
