"""One process of a pretraining run, of several if a coordinator is named.

`python -m` with: coordinator, processes, this one's number, devices each, run folder, texts, mesh, step to stop at.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path


def record(path: Path, stop_after: int | None):
    """Makes every batch leave a line: its examples and what they hold; asks the process to end at a step."""
    from fmzoo import data

    take = data.TextIterator.__next__

    def recorded(batches):
        batch = take(batches)
        held = [hashlib.sha256(row.tobytes()).hexdigest()[:8] for row in batch["inputs"]]
        step = int(batch["example_id"][0]) // 8 + 1
        with open(path, "a") as file:
            file.write(
                json.dumps({"step": step, "rows": list(zip(batch["example_id"].tolist(), held, strict=True))}) + "\n"
            )
        if step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    data.TextIterator.__next__ = recorded
    return lambda: setattr(data.TextIterator, "__next__", take)


def main(coordinator, processes, number, devices, folder, texts, mesh, stop_after):
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "device_count" not in flag]
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    if int(processes) > 1:
        jax.distributed.initialize(coordinator, num_processes=int(processes), process_id=int(number))
    assert (jax.device_count(), jax.local_device_count()) == (int(devices) * int(processes), int(devices))

    from fmzoo.stages import pretrain, report
    from tests.train import small_run

    report.write_report = lambda *_: None  # this is about what comes before it

    # Only the last process is told to stop; all of them must.
    last = int(number) == int(processes) - 1
    record(Path(f"{folder}.seen.{number}"), int(stop_after) if stop_after and last else None)
    finished = pretrain(small_run.config(texts, mesh=mesh, steps=6, checkpoint_every=2), folder)
    assert finished == (not stop_after)


if __name__ == "__main__":
    main(*sys.argv[1:])
