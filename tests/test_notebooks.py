"""Every notebook runs from top to bottom."""

import os
import pathlib

import jax
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import fmzoo
from fmzoo import models, text

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small model of random weights, in the place of a real one."""
    tokenizer = text.ByteTokenizer()
    config = models.DecoderConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, num_layers=2, context_length=64, mlp=models.MlpConfig(d_ff=16),
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8),
    )  # fmt: skip
    module = models.Decoder(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda leaf: draw(leaf.shape).astype(np.float32), shapes)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    fmzoo.save(models.Pretrained(module, params, config, tokenizer), folder)
    return folder


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter client, not of ours
def test_a_notebook_runs_and_draws(path, tiny):
    notebook = nbformat.read(path, as_version=4)
    # They run more than they compile, so that most of what speeds tests up slows them down; the older emitters do not.
    as_a_reader = {**os.environ, "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false", "FMZOO_SOURCE": str(tiny)}
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(env=as_a_reader)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
