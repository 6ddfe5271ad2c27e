"""The command line as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from fmzoo.arguments import options
from fmzoo.cli import COMMANDS
from fmzoo.stages import PRESETS
from fmzoo.zoo import names
from tests.command import SMALL, fmzoo

WORDS = "Full fathom five thy father lies; of his bones are coral made. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text in three splits, and a run over it that was typed twice."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "data").mkdir()
    for split, times in (("train", 40), ("validation", 3), ("test", 2)):
        (folder / "data" / f"{split}.txt").write_text(WORDS * times)
    return folder


def pretrain(folder, *changes):
    return ("pretrain", "tiny", "--workdir", folder / "run", "--data", folder / "data", *SMALL, *changes)


@pytest.fixture(scope="module")
def run(folder):
    ended = fmzoo(*pretrain(folder))
    assert ended.status == 0, ended.err
    return folder / "run"


def steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_is_promised(run):
    assert steps(run) == [1, 2, 3, 4]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]
    assert json.loads((run / "config.json").read_text())["model"]["d_model"] == 16
    report = (run / "report.md").read_text()
    assert "bits per byte, 1 validation documents" in report
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so(folder, run):
    before = (run / "metrics.jsonl").read_bytes()
    ended = fmzoo(*pretrain(folder))
    assert ended.status == 0
    assert "is finished" in ended.out
    assert (run / "metrics.jsonl").read_bytes() == before


def test_more_steps_go_on(folder, run, tmp_path):
    changed = ("--workdir", tmp_path / "run", "--quiet")
    assert fmzoo(*pretrain(folder, *changed)).status == 0
    assert fmzoo(*pretrain(folder, *changed, "--steps", "6")).status == 0
    assert steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6]
    assert "is finished" in fmzoo(*pretrain(folder, *changed, "--steps", "6")).out


def test_generate_prints_the_same_text_for_the_same_seed(run):
    one, same, other = (
        fmzoo("generate", run, "--prompt", "Full ", "--max-new-tokens", "20", "--temperature", "1", "--seed", seed)
        for seed in (1, 1, 2)
    )
    assert one.status == 0, one.err
    assert len(one.out) > 1
    assert one.out == same.out != other.out


def test_a_prompt_may_begin_with_a_dash(run):
    assert fmzoo("generate", run, "--prompt=-- Full", "--max-new-tokens", "2").status == 0


def test_eval_prefers_the_test_split(folder, run):
    ended = fmzoo("eval", run, "--data", folder / "data")
    assert ended.status == 0, ended.err
    assert f"split test: 1 documents, {2 * len(WORDS)} bytes, {2 * len(WORDS)} tokens" in ended.out
    assert float(re.search(r"bits per byte +([\d.]+)", ended.out)[1]) > 0
    assert "split validation" in fmzoo("eval", run, "--data", folder / "data", "--split", "validation").out


def test_eval_takes_a_source_without_splits(folder, run):
    assert "split all" in fmzoo("eval", run, "--data", folder / "data" / "train.txt").out


def test_info_of_a_run_and_of_a_name(run):
    assert "checkpoints" in fmzoo("info", run).out
    said = fmzoo("info", "llama2-7b").out
    assert "6,738,415,616" in said
    assert re.search(r"model.attention.num-kv-heads +32", said)


def test_zoo_lists_every_name():
    listed = fmzoo("zoo").out
    assert all(re.search(rf"^ *{re.escape(name)} ", listed, re.MULTILINE) for name in names())
    assert "6,738,415,616" in listed


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command(arguments):
    ended = fmzoo(*arguments)
    assert ended.status == 0
    assert all(f"fmzoo {name} " in ended.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    ended = fmzoo(command, "--help")
    assert ended.status == 0
    assert ended.out.startswith(f"usage: fmzoo {command} ")
    assert not ended.err


def test_every_field_of_the_config_is_an_option():
    config = PRESETS["small"]
    known = set(options(type(config), config))
    assert {"--steps", "--model.num-layers", "--model.attention.head-dim", "--optimizer.b2", "--no-quiet"} <= known
    listed = fmzoo("pretrain", "small", "--help").out
    assert set(re.findall(r"--[a-z][\w.-]*", listed)) - {"--help", "--workdir"} == known


def test_a_part_that_a_preset_lacks_can_be_given(folder, tmp_path):
    local = ("--model.local-rope.theta", "5000", "--model.pattern", "local", "global", "--model.attention.window", "4")
    ended = fmzoo(*pretrain(folder, "--workdir", tmp_path / "run", *local, "--model.num-layers", "2", "--steps", "1"))
    assert ended.status == 0, ended.err
    model = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert model["local_rope"]["theta"] == 5000
    assert model["pattern"] == ["local", "global"]


def start(*arguments, **changes):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **changes}
    del environment["JAX_COMPILATION_CACHE_DIR"]  # as for a user, who sets none
    # A shell's background jobs, and what they start, are told to ignore SIGINT.
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "runpy.run_module('fmzoo', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_help_and_zoo_import_nothing_heavy():
    heavy = ("orbax.checkpoint", "grain", "tensorflow_datasets", "tokenizers", "matplotlib", "pyarrow")
    code = (
        "import sys; from fmzoo.cli import main; main(['--help']); assert 'jax' not in sys.modules; main(['zoo']);"
        f"main(['info', 'llama2-7b']); assert not [m for m in {heavy} if m in sys.modules]"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_a_run_quietly_and_the_same_line_goes_on(folder, tmp_path, number, status):
    line = pretrain(folder, "--workdir", tmp_path / "run", "--steps", "100000", "--checkpoint-every", "100000")
    process = start(*line, XDG_CACHE_HOME=str(tmp_path / "cache"))
    timing = tmp_path / "run" / "timing.jsonl"
    while process.poll() is None and not (timing.exists() and timing.read_text().count("\n") > 5):
        time.sleep(0.05)
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, err
    assert not err
    assert (tmp_path / "cache" / "fmzoo" / "xla").is_dir()  # what was compiled is kept
    if number == signal.SIGTERM:
        assert "is stopped and saved" in out
        taken = steps(tmp_path / "run")[-1]
        ended = fmzoo(*line, "--steps", taken + 1, "--mesh", "data=-1")
        assert ended.status == 0, ended.err
        assert steps(tmp_path / "run") == [*range(1, taken + 2)]
