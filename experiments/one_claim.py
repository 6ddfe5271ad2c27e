"""The command line of an experiment with one claim; not an experiment."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmzoo.parallel.allocator import keep_heap


def main(doc: str, config: Any, run: Callable[[Any, Path], dict]) -> None:
    """Runs a config in ``--workdir``, prints what was found, and exits with 0 if the claim holds, and else with 1.

    Args:
      doc: of the experiment's file.
      config: of the run.
      run: ``(config, workdir) -> figures``, with whether the claim ``holds`` among them.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    given = parser.parse_args()
    keep_heap()
    found = run(config, given.workdir)
    print(json.dumps(found, indent=2))
    raise SystemExit(0 if found["holds"] else 1)
