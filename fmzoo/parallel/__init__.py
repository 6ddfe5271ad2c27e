"""Many devices: meshes, axis rules, and three ways to compile the same step."""

from fmzoo.parallel.compile import compile, pmap, shard, sharing, total  # noqa: A004
from fmzoo.parallel.mesh import check_rows, constrain_rows, mesh, parse_mesh, place_batch
from fmzoo.parallel.processes import from_first, gather_json
from fmzoo.parallel.rules import Rules, path_of, place, specs, state_shardings

__all__ = [
    "Rules",
    "check_rows",
    "compile",
    "constrain_rows",
    "from_first",
    "gather_json",
    "mesh",
    "parse_mesh",
    "path_of",
    "place",
    "place_batch",
    "pmap",
    "shard",
    "sharing",
    "specs",
    "state_shardings",
    "total",
]
