"""A pretraining run of eight steps, and a process of it that hangs or dies where it is told: `python -m` with a folder,
the folder of its texts, and a fate."""

import os
import random
import signal
import sys
import time
from pathlib import Path

from fmzoo import data, models, train
from fmzoo.stages import PretrainConfig, prepare

STEPS, EVERY = 8, 3


def config(texts, **changes) -> PretrainConfig:
    """A decoder of one layer over the texts of a folder."""
    model = models.DecoderConfig(
        vocab_size=264, d_model=16, num_layers=1, context_length=32, dropout=0.1,
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=24),
    )  # fmt: skip
    settings = {
        "model": model, "data": str(texts), "tokenizer": "byte", "batch_size": 8, "sequence_length": 16,
        "steps": STEPS, "checkpoint_every": EVERY, "ema": 0.9, "quiet": True,
    }  # fmt: skip
    return PretrainConfig(**settings | changes)


def write_texts(folder: Path) -> Path:
    """Twelve documents of invented words."""
    folder.mkdir()
    draw = random.Random(0)
    for i in range(12):
        words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(60)]
        (folder / f"{i:02}.txt").write_text(" ".join(words))
    return folder


def run(folder, texts, watch=lambda step: None, **changes):
    """Trains to the end from wherever the folder's run stopped, and gives the state."""
    made = prepare(config(texts, **changes))

    class Watched:
        """The batches, seen by ``watch`` before each."""

        def __next__(self):
            watch(made.batches.examples // 8 + 1)
            return next(made.batches)

        get_state, set_state = made.batches.get_state, made.batches.set_state

    fit = config(texts, **changes).fit
    return train.fit(made.step, made.state, {}, Watched(), fit, folder, merge=data.merge_states)


def hang(step: int) -> None:
    """Waits at step 6 for what is to come."""
    while step == 6:
        time.sleep(0.01)


def die_in_save() -> None:
    """Ends this process by SIGKILL when the second save has begun to write arrays."""
    from orbax.checkpoint._src.serialization import jax_array_handlers

    write, calls = jax_array_handlers._async_serialize_replica_slices, []

    async def write_or_die(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return await write(*args, **kwargs)

    jax_array_handlers._async_serialize_replica_slices = write_or_die


if __name__ == "__main__":
    folder, texts, fate = sys.argv[1:]
    if fate == "die in the second save":
        die_in_save()
    run(folder, texts, hang if fate == "hang" else lambda step: None)
