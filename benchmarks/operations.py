"""Where a run's time goes, by kind of XLA operation."""

import collections
import gzip
import json
import pathlib
import re
import tempfile


def profile(run, most=12):
    """Milliseconds by kind of operation in one run and how often each ran, the most expensive first.

    A `ynn_fusion` or `dot` is a product given to a library, with what was fused into it; the other fusions are loops of
    XLA's own. Operations that run side by side on two cores both count in full.
    """
    import jax

    run(2)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(1)
        (path,) = pathlib.Path(folder).glob("**/*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spent, times = collections.Counter(), collections.Counter()
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}) and not event["name"].startswith("end: "):
            kind = re.sub(r"[.\d]+$", "", event["args"]["hlo_op"])
            spent[kind] += event["dur"] / 1000
            times[kind] += 1
    return {kind: f"{value:.1f} ms in {times[kind]}" for kind, value in spent.most_common(most)}
