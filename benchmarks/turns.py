"""Workers that take turns: each in a process of its own, one at work at a time, so that all meet the same machine."""

import statistics
import subprocess
import sys
import time


def serve(run, warm):
    """A worker's side: runs as often as each line on standard input says, and answers with the seconds of one run."""
    run(warm)  # the first runs still take their memory from the system
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print((time.perf_counter() - start) / int(line), flush=True)


class Worker:
    """A process that waits for its turn: ``python SCRIPT worker ARGUMENTS``, which ends in `serve`."""

    def __init__(self, script, *arguments):
        command = [sys.executable, script, "worker", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self._process.stdout.readline().strip()) != "ready":
            if not line and self._process.poll() is not None:
                raise SystemExit(f"{' '.join(map(str, arguments))} ended with {self._process.returncode}")

    def run(self, count):
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def in_turn(script, workers, rounds, count):
    """Medians of workers of a script that take turns, ``{name: arguments}`` to ``{name: seconds}``."""
    started = {name: Worker(script, *arguments) for name, arguments in workers.items()}
    seconds = {name: [] for name in started}
    for _ in range(rounds):
        for name, worker in started.items():
            seconds[name].append(worker.run(count))
    for worker in started.values():
        worker.close()
    return {name: statistics.median(values) for name, values in seconds.items()}
