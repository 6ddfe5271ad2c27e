"""A run killed ten times is the run that was not.

Claim: after `kill -9` at any moment the same line goes on, and the finished run's metrics, parameters and whole state
are those of an uninterrupted run, bit for bit.

    python experiments/kill_and_resume.py --workdir killed
    python experiments/kill_and_resume.py --workdir killed-images --run image
    python experiments/kill_and_resume.py --workdir killed-autoencoder --run autoencoder

The run of images keeps a moving average of its weights; that of an autoencoder trains two states, itself and a
discriminator. Hardware: any; about three minutes each on two cores. Three kills come before the first checkpoint, four
at a random moment after it, three while a checkpoint is being written. Exits with status 1 if anything differs.
"""

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmzoo.errors import InputError
from fmzoo.train import complete_steps
from fmzoo.train.metrics_log import read_rows

STEPS, EVERY = 220, 20
RUNS = {
    "text": "tiny --data shakespeare --model.dropout 0.1 --ema 0.99 --tokenizer byte",
    "image": "digits --batch-size 16 --ema 0.99 --dropout 0.1",
    "autoencoder": "digits-autoencoder --batch-size 16 --ema 0.99",
}
EARLY, LATE, SAVING = "before the first checkpoint", "after a checkpoint", "during a save"
KINDS = (EARLY, EARLY, EARLY, LATE, SAVING, LATE, SAVING, LATE, SAVING, LATE)


class Kill(NamedTuple):
    """What one kill found and left."""

    kind: str
    step: int  # the last that the process took
    complete: list[int]  # checkpoints on disk
    unfinished: bool  # a save was cut short
    rows: int  # whole rows of metrics on disk
    same: bool  # those rows are the uninterrupted run's


def command(run: str, folder: Path) -> list[str]:
    """The line that starts a run and goes on with it."""
    settings = {"--workdir": folder, "--steps": STEPS, "--checkpoint-every": EVERY, "--keep-checkpoints": 3}
    words = [str(word) for pair in settings.items() for word in pair]
    return [sys.executable, "-m", "fmzoo", "pretrain", *RUNS[run].split(), *words]


def kill_once(
    line: list[str], folder: Path, kind: str, target: int, draw: random.Random, whole: list[dict[str, Any]]
) -> Kill:
    """Starts the run and kills it: at a step of its own choice plus a moment, or as soon as a save is seen after it."""
    timing, checkpoints = folder / "timing.jsonl", folder / "checkpoints"
    before = timing.stat().st_size if timing.exists() else 0
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    while last_step(timing, before) < target and process.poll() is None:
        time.sleep(0.002)
    if kind == SAVING:
        while not list(checkpoints.glob("*.orbax-checkpoint-tmp")) and process.poll() is None:
            pass
    else:
        time.sleep(draw.uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"the run ended with status {process.returncode} before it could be killed")
    rows = read_rows(folder / "metrics.jsonl")
    unfinished = bool(list(checkpoints.glob("*.orbax-checkpoint-tmp")))
    same = rows == whole[: len(rows)]
    return Kill(kind, last_step(timing, before), complete_steps(checkpoints), unfinished, len(rows), same)


def last_step(timing: Path, before: int) -> int:
    """The last step that a process has written down, past the bytes that were there before; -1 if none."""
    if not timing.exists():
        return -1
    with contextlib.suppress(ValueError, IndexError), open(timing, encoding="utf-8") as file:
        file.seek(before)
        return json.loads(file.read().splitlines()[-1])["step"]
    return -1


def targets(draw: random.Random) -> list[int]:
    """A step for each kill: the first at any moment of the start, then on and on through the run."""
    early, late = KINDS.count(EARLY), len(KINDS) - KINDS.count(EARLY)
    first = sorted(draw.randint(1, EVERY - 2) for _ in range(early - 1))
    width = (STEPS - 3 * EVERY) / late
    return [-1, *first, *(2 * EVERY + int(width * (i + draw.random() / 2)) for i in range(late))]


def read_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every array of the last checkpoint by its path, and the position in the data."""
    import jax
    import orbax.checkpoint as ocp

    step = folder / "checkpoints" / str(complete_steps(folder / "checkpoints")[-1])
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        shapes = reader.metadata(step / "state").tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        tree = reader.restore(step / "state", args=ocp.args.PyTreeRestore(restore_args=numpy))
    arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    return arrays, json.loads((step / "data" / "metadata").read_text())


def differences(killed: Path, whole: Path) -> list[str]:
    """What differs between the finished runs: nothing, if the claim holds."""
    found = []
    if (killed / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes():
        found.append("metrics.jsonl")
    (arrays, place), (expected, end) = read_state(killed), read_state(whole)
    if arrays.keys() != expected.keys():
        found.append("the names of arrays")
    found += [path for path in arrays.keys() & expected.keys() if arrays[path].tobytes() != expected[path].tobytes()]
    return found + (["the position in the data"] if place != end else [])


def table(kills: list[Kill]) -> str:
    """The kills, a row each, as Markdown."""
    lines = ["| kill | moment | step | checkpoints | save cut short | rows on disk | equal |", "|" + " --- |" * 7]
    for number, kill in enumerate(kills, 1):
        complete = ", ".join(map(str, kill.complete)) or "none"
        marks = ["yes" if mark else "no" for mark in (kill.unfinished, kill.same)]
        step = kill.step if kill.step > 0 else "none"
        lines.append(f"| {number} | {kill.kind} | {step} | {complete} | {marks[0]} | {kill.rows} | {marks[1]} |")
    return "\n".join(lines)


def run(name: str, workdir: Path, seed: int) -> bool:
    """Runs both, prints the table and the verdict; whether the claim holds."""
    workdir = workdir.absolute()  # as Orbax needs it
    workdir.mkdir(parents=True, exist_ok=True)
    whole, killed, draw = workdir / "whole", workdir / "killed", random.Random(seed)
    if killed.exists():
        raise InputError(f"workdir {workdir} has been used; a new folder is needed")
    line = command(name, killed)
    subprocess.run(command(name, whole), check=True, stdout=subprocess.DEVNULL)
    expected = read_rows(whole / "metrics.jsonl")
    kills = []
    for kind, target in zip(KINDS, targets(draw), strict=True):
        kills.append(kill_once(line, killed, kind, target, draw, expected))
        print(f"kill {len(kills)} of {len(KINDS)}: {kind}, step {kills[-1].step}", file=sys.stderr)
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    late = sum(bool(kill.complete) for kill in kills)
    saving = sum(kill.unfinished for kill in kills)
    found = differences(killed, whole)
    found += [f"rows on disk after kill {number}" for number, kill in enumerate(kills, 1) if not kill.same]
    report = [
        table(kills),
        "",
        f"{len(kills)} kills, {late} after a first checkpoint, {saving} during a save; {STEPS} steps of both runs: "
        + ("every byte of metrics and state equal." if not found else f"DIFFERENT: {', '.join(found[:5])}."),
    ]
    print("\n".join(report))
    (workdir / "report.md").write_text("\n".join(report) + "\n")
    return not found and len(kills) == 10 and late >= 4 and saving >= 2


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--run", choices=RUNS, default="text")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(0 if run(arguments.run, arguments.workdir, arguments.seed) else 1)


if __name__ == "__main__":
    main()
