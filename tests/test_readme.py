"""The README's Python runs as it stands, and its first lines import what they say."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    lines = [line for line in blocks[0].splitlines() if line]
    assert len(lines) == 5
    assert [line for line in lines if "import" in line] == ["import jax", "from fmzoo import models, objectives"]
    names: dict = {}
    exec(blocks[0], names)  # noqa: S102 -- this is the doctest
    assert all(float(abs(leaf).max()) > 0 for leaf in names["jax"].tree.leaves(names["grads"]))
    exec(blocks[1], names)  # noqa: S102
    jnp, tokens = names["jax"].numpy, names["jax"].numpy.tile(names["x"], (8, 1))
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones(tokens[:, 1:].shape)}
    state, metrics = names["run"](names["state"], {}, batch | {"example_id": jnp.arange(16)})
    assert 4 < float(metrics["loss"]) < 8
    assert int(state.step) == 1
