"""Workers that take turns: each in a process of its own, one at work at a time, so that all meet the same machine."""

import json
import statistics
import subprocess
import sys
import time


def serve(run, warm):
    """A worker's side: runs with the arguments on each line of standard input, and answers with the seconds it took.

    The first runs, with each of ``warm``, still compile and take their memory from the system.
    """
    for arguments in warm:
        run(*arguments)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(*json.loads(line))
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A process that waits for its turn: ``python SCRIPT worker ARGUMENTS``, which ends in `serve`."""

    def __init__(self, script, *arguments):
        command = [sys.executable, script, "worker", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self._process.stdout.readline().strip()) != "ready":
            if not line and self._process.poll() is not None:
                raise SystemExit(f"{' '.join(map(str, arguments))} ended with {self._process.returncode}")

    def run(self, *arguments):
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def by_case(script, workers, rounds):
    """Medians of workers of a script that take turns.

    ``{name: (arguments, cases)}`` to ``{name: {case: seconds}}``: a worker is started with its arguments, and in its
    turn runs once with each of its cases.
    """
    began, started = time.perf_counter(), {}
    for name, (arguments, _) in workers.items():
        started[name] = Worker(script, *arguments)
        print(f"{time.perf_counter() - began:.0f} s: {name} is ready", file=sys.stderr, flush=True)
    seconds = {name: {case: [] for case in cases} for name, (_, cases) in workers.items()}
    for turn in range(rounds):
        for name, worker in started.items():
            for case, values in seconds[name].items():
                values.append(worker.run(*case))
        print(f"{time.perf_counter() - began:.0f} s: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    for worker in started.values():
        worker.close()
    return {name: {case: statistics.median(values) for case, values in of.items()} for name, of in seconds.items()}


def in_turn(script, workers, rounds, count):
    """Medians of one run of ``count``, ``{name: arguments}`` to ``{name: seconds}``."""
    found = by_case(script, {name: (arguments, [(count,)]) for name, arguments in workers.items()}, rounds)
    return {name: seconds[(count,)] / count for name, seconds in found.items()}
