"""A language model trained for some minutes on two cores, beside n-grams and compressors on the same text.

Claim: on works that none of them saw (Macbeth, The Tempest, the Sonnets) the model needs fewer bits a byte than
interpolated modified Kneser-Ney (Chen & Goodman 1999) of order 3 over its tokens and of order 5 over bytes, after at
most twenty minutes of training. The report says how long it took and whether the claim holds.

    python experiments/beyond_ngrams.py --workdir beyond

Hardware: two CPU cores.

A compressor's bits are those of train and test together less those of train alone, divided by the bytes of test:
``xz -9`` and ``zstd -19`` as they come.
"""

import dataclasses
import shutil
import subprocess
import tempfile
from pathlib import Path

from one_claim import main

from fmzoo import data, train
from fmzoo.pretrained import load
from fmzoo.stages.plots import plot_loss
from fmzoo.stages.pretrain import PretrainConfig, pretrain
from fmzoo.stages.tour import CONFIG as TOUR
from fmzoo.stages.tour import measure

CONFIG = dataclasses.replace(TOUR, steps=1600, checkpoint_every=400)  # about two passes over the training text
COMPRESSORS = {"xz -9": ["xz", "-9", "-c"], "zstd -19": ["zstd", "-19", "-q", "-c"]}


def compressed_bits(command: list[str], learned: list[str], held_out: list[str]) -> float:
    """Bits a byte of the held-out text for a compressor that has the training text before it."""
    with tempfile.TemporaryDirectory() as folder:
        alone, both = Path(folder, "train"), Path(folder, "both")
        alone.write_text("".join(learned))
        both.write_text("".join([*learned, *held_out]))
        sizes = [
            len(subprocess.run([*command, path], check=True, capture_output=True).stdout) for path in (alone, both)
        ]
    return 8 * (sizes[1] - sizes[0]) / sum(len(text.encode()) for text in held_out)


def run(config: PretrainConfig, workdir: Path) -> dict:
    """Trains, measures all, writes ``report.md`` and ``loss.png``, and says whether the claim holds."""
    pretrain(config, workdir / "run")
    learned, held_out = (list(data.source(config.data, split)) for split in ("train", "test"))
    levels = []
    for level in measure(load(workdir / "run"), learned, held_out, config.sequence_length):
        print(f"{level.name}: {level.bits_per_byte:.4f} bits a byte", flush=True)
        levels.append(level)
    bits = {level.name: level.bits_per_byte for level in levels}
    for name, command in COMPRESSORS.items():
        bits[name] = compressed_bits(command, learned, held_out) if shutil.which(command[0]) else float("nan")
    seconds = sum(row["seconds"] for row in train.read_rows(workdir / "run" / "timing.jsonl"))
    model, order3, order5 = levels[0].bits_per_byte, levels[2].bits_per_byte, levels[3].bits_per_byte
    holds = model < order3 and model < levels[4].bits_per_byte and seconds <= 20 * 60
    curve = train.read_rows(workdir / "run" / "metrics.jsonl")
    plot_loss(curve, workdir / "loss.png", {level.name: level.nats_per_token for level in levels})
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(bits.items(), key=lambda item: item[1]))
    verdict = f"""# Beyond n-grams

Verdict: the claim {"holds" if holds else "FAILS"}. It took {seconds / 60:.1f} minutes of training, and the model is
{abs(model - order5):.4f} bits a byte {"below" if model < order5 else "above"} order 5 over tokens.

| predictor | bits a byte, held-out works |
| --- | ---: |
{rows}

![loss by step](loss.png)
"""
    train.replace_text(workdir / "report.md", verdict)
    return {"holds": holds, "training_minutes": round(seconds / 60, 2), "bits_per_byte": bits}


if __name__ == "__main__":
    main(__doc__, CONFIG, run)
