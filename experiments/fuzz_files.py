"""Files that are damaged or made to do harm load, or end in one sentence.

Claim: of 2,000 mutations each of a safetensors, GGUF, msgpack, index, config and tokenizer file every one loads or ends
in `fmzoo.errors.InputError`; none takes over 5 seconds, takes over 1 GB more memory, or writes outside its folder.

    python experiments/fuzz_files.py
    python experiments/fuzz_files.py --case tokenizer 17

Hardware: any with Linux. A mutation is of bytes (bits, spans, fields for lengths) or of
the tree that the file holds (types, keys, numbers, names, depth), which is written again as a file that can be parsed;
seed, kind and number give the same one everywhere. A process of its own reads the files, under a limit of memory; after
one that hangs or dies another goes on. Prints a row for each kind; exits with status 1 if a mutation did anything else,
and says which. The second line tries one mutation and shows where it ended.
"""

import argparse
import contextlib
import faulthandler
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mutations
from file_trees import UNWRITABLE

from fmzoo.errors import InputError

MOST_SECONDS, MOST_BYTES = 5.0, 10**9
LONGEST = 300  # characters of a sentence, the path left out
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"}


class Outcome(NamedTuple):
    """What became of one mutation; ``end`` is loaded, refused, or what else happened."""

    kind: str
    number: int
    said: str
    end: str
    seconds: float = 0.0
    bytes: int = 0


def damage(content: bytes, format: Any, draw: random.Random) -> tuple[str, bytes]:
    """A mutation of a file's bytes, or of its tree if it has one."""
    if format is None or draw.random() < 0.4:
        return mutations.mutate_bytes(content, draw)
    try:
        tree = format.read(content)
        said = mutations.mutate_tree(tree, draw)
        return said, format.write(tree)
    except UNWRITABLE:  # no file can say that
        return mutations.mutate_bytes(content, draw)


class Watch:
    """Notes what is written outside of a folder, or started, as Python and the folder beside see it."""

    def __init__(self, root: Path):
        self.root, self.inside, self.seen, self._on = root, root / "inside", [], False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in STARTS or event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITES):
            paths = [x for x in arguments[: 2 - (event == "open")] if isinstance(x, str | bytes | os.PathLike)]
            places = [os.path.realpath(os.fsdecode(path)) for path in paths]
            if event in STARTS or not all(place.startswith(f"{self.inside}{os.sep}") for place in places):
                self.seen.append(f"{event} {places}")

    def _beside(self) -> list[tuple[str, int, int]]:
        paths = [path for path in self.root.rglob("*") if self.inside not in (path, *path.parents)]
        return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """What happens here is noted in `seen`."""
        before, self.seen, self._on = self._beside(), [], True
        try:
            yield
        finally:
            self._on = False
            self.seen += [f"changed {path}" for path, *_ in set(self._beside()) ^ set(before)]


def attempt(use: Callable[[Path], None], watch: Watch, show: bool = False) -> tuple[str, float, int]:
    """How reading the watched folder ends, in how many seconds, and how many bytes more it held at the most."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start, end = memory("VmRSS"), time.perf_counter(), "loaded"
    with watch.watching():
        try:
            use(watch.inside)
        except InputError as error:
            sentence = str(error).replace(str(watch.inside), "")
            end = "refused" if len(sentence) < LONGEST and "\n" not in sentence else f"says: {sentence}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a package in Rust panics with one that is no Exception
            end = f"{type(error).__name__}: {str(error)[:200]}"
            if show:
                traceback.print_exc()
    seconds, held = time.perf_counter() - start, max(0, memory("VmHWM") - before)
    if end in ("loaded", "refused"):
        late, large = seconds > MOST_SECONDS, held > MOST_BYTES
        end = "; ".join(watch.seen) or ("too slow" if late else "too much memory" if large else end)
    return end, seconds, held


def memory(name: str) -> int:
    """Bytes of this process, as the system counts them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def prepare(sound: Any, watch: Watch) -> bytes:
    """Puts a sound file and what belongs to it into the watched folder and sees it read."""
    for path in sorted(watch.inside.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    sound.build(watch.inside)
    if (end := attempt(sound.use, watch, show=True)[0]) != "loaded":
        raise SystemExit(f"the sound {sound.file} is not read: {end}")
    return (watch.inside / sound.file).read_bytes()


def work(seed: int, count: int, first: int = 0, case: tuple[str, int] | None = None) -> Iterator[Outcome]:
    """Tries the mutations of one sound file after another, or a single one; each is announced before it is tried.

    The first ones, counted over all kinds, are left out.
    """
    from sound_files import KINDS

    sys.dont_write_bytecode = True
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (root / "inside").mkdir()
    (root / "outside").write_text("not to be touched")
    watch, at = Watch(root.resolve()), 0
    for kind, sounds in KINDS.items():
        for place, sound in enumerate(sounds):
            numbers = range(place, count, len(sounds))
            wanted = [n for i, n in enumerate(numbers, at) if i >= first and case in (None, (kind, n))]
            at += len(numbers)
            content = prepare(sound, watch) if wanted else b""
            limit_memory()
            for number in wanted:
                said, damaged = damage(content, sound.format, random.Random(f"{seed} {kind} {number}"))
                yield Outcome(kind, number, f"{sound.file}: {said}", "started")
                (watch.inside / sound.file).write_bytes(damaged)
                faulthandler.dump_traceback_later(MOST_SECONDS + 1, exit=True)
                end = attempt(sound.use, watch, show=case is not None)
                faulthandler.cancel_dump_traceback_later()
                yield Outcome(kind, number, f"{sound.file}: {said}", *end)


def limit_memory() -> None:
    """Lets this process take 1 GB more than it has, so that more is refused by the system."""
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + MOST_BYTES, most))


def oversee(seed: int, count: int) -> Iterator[Outcome]:
    """The outcomes of all mutations; a worker that dies is replaced by one that goes on behind."""
    done, last = 0, None
    while True:
        line = [sys.executable, __file__, "--work", str(done), "--seed", str(seed), "--mutations", str(count)]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=errors, text=True)
            for words in process.stdout:
                last = Outcome(*json.loads(words))
                if last.end != "started":
                    done += 1
                    yield last
            status = process.wait()
            errors.seek(0)
            said = errors.read()
        if status == 0:
            return
        if last is None or last.end != "started":
            raise SystemExit(f"a worker ended with status {status}:\n{said[-2000:]}")
        done += 1
        yield last._replace(end=f"died with status {status}: {said[-1500:]}")


def tell(outcomes: Iterator[Outcome]) -> int:
    """Prints a row for each kind as it ends, then every failure; the status to exit with."""
    print("| file | mutations | loaded | refused | slowest, s | most memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    count, failed = 0, []
    for kind, group in itertools.groupby(outcomes, lambda outcome: outcome.kind):
        found = list(group)
        loaded, refused = (sum(o.end == end for o in found) for end in ("loaded", "refused"))
        slowest, most = max(o.seconds for o in found), max(o.bytes for o in found) / 1e6
        print(f"| {kind} | {len(found)} | {loaded} | {refused} | {slowest:.2f} | {most:.1f} |", flush=True)
        count += len(found)
        failed += [o for o in found if o.end not in ("loaded", "refused")]
    for o in failed:
        print(f"--case {o.kind} {o.number} ({o.said}): {o.end}".encode("ascii", "backslashreplace").decode())
    return int(bool(failed) or not count)


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=2, metavar=("KIND", "NUMBER"), help="try this one and show where it ended")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        for outcome in work(options.seed, options.mutations, options.work):
            print(json.dumps(outcome), flush=True)
        return 0
    if options.case:
        case = options.case[0], int(options.case[1])
        return tell(o for o in work(options.seed, options.mutations, case=case) if o.end != "started")
    return tell(oversee(options.seed, options.mutations))


if __name__ == "__main__":
    sys.exit(main())
