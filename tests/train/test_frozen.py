"""Frozen trees are written once, and come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.train import keep_frozen, load_frozen


def test_frozen_trees_are_written_once_and_come_back(tmp_path):
    frozen = {"reference": {"w": jnp.arange(6.0).reshape(2, 3)}, "base": {"k": jnp.ones(4, jnp.bfloat16)}}
    keep_frozen(tmp_path / "frozen", frozen)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "frozen").rglob("*")}
    keep_frozen(tmp_path / "frozen", jax.tree.map(jnp.zeros_like, frozen))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "frozen").rglob("*")} == stamps
    found = load_frozen(tmp_path / "frozen", jax.tree.map(jnp.zeros_like, frozen))
    jax.tree.map(np.testing.assert_array_equal, found, frozen)
    with pytest.raises(InputError, match="frozen tree 'reward'"):
        load_frozen(tmp_path / "frozen", {"reward": frozen["base"]})
