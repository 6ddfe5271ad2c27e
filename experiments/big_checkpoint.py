"""A checkpoint of 1.1 billion random parameters in bfloat16: the memory of converting it, the bytes of loading it.

    python experiments/big_checkpoint.py --folder /tmp/big

Makes the checkpoint in shards, converts it by ``fmzoo convert`` in a process of its own, compares every tensor of what
comes out, and loads it onto eight devices of this machine's CPU under FSDP, with a record of what is read.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import ml_dtypes
import numpy as np

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32_000, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
SHARD = 500_000_000  # bytes
DEVICES = 8


class Noise:
    """A tensor of random numbers in bfloat16 of sizes from 1/128 to 1/32, drawn when it is asked for."""

    dtype = np.dtype(ml_dtypes.bfloat16)

    def __init__(self, number, shape):
        self.number, self.shape, self.nbytes = number, shape, 2 * int(np.prod(shape))

    def __array__(self, dtype=None, copy=None):
        bits = np.frombuffer(np.random.default_rng(self.number).bytes(self.nbytes), np.uint16)
        return ((bits & 0x80FF) | 0x3C00).view(self.dtype).reshape(self.shape)


def make(folder, config, shard=SHARD):
    """Writes the checkpoint, a tensor at a time, and returns how many parameters it has."""
    from flax.traverse_util import unflatten_dict

    from fmzoo.interop import decoder_structure, folders, huggingface, to_theirs

    family, ours = huggingface.read_config(config)
    structure = decoder_structure(ours)
    zeros = {path: np.broadcast_to(np.float32(0), shape) for path, shape in structure.shapes.items()}
    tensors = to_theirs(family.mapping(ours), structure, unflatten_dict(zeros, sep="/"))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    folders.write_tensors(folder, {n: Noise(i, t.shape) for i, (n, t) in enumerate(tensors.items())}, shard)
    return sum(int(np.prod(tensor.shape)) for tensor in tensors.values())


def peak_memory(command, **environment):
    """Runs a command and returns the largest resident set of its process in bytes."""
    started = subprocess.Popen(command, env=os.environ | environment)
    _, status, usage = os.wait4(started.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(map(str, command))} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024


def different_tensors(one, other):
    """The names of tensors that two folders do not hold alike, both read a tensor at a time."""
    from fmzoo.interop import folders

    one, other = folders.read_tensors(one), folders.read_tensors(other)
    both = one.keys() & other.keys()
    differ = [n for n in both if one[n].dtype != other[n].dtype or not np.array_equal(one[n], other[n])]
    return sorted([*differ, *(one.keys() ^ other.keys())])


class Recorded:
    """A file of which every read is noted."""

    def __init__(self, file, reads):
        self._file, self._reads = file, reads

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def seek(self, at):
        """Goes to a byte."""
        return self._file.seek(at)

    def read(self, size=-1):
        """Reads and notes."""
        start, content = self._file.tell(), self._file.read(size)
        self._reads.append((start, start + len(content)))
        return content

    def readinto(self, target):
        """Reads and notes."""
        start, count = self._file.tell(), self._file.readinto(target)
        self._reads.append((start, start + count))
        return count


@contextlib.contextmanager
def recorded_reads():
    """``{file name: [(first byte, one after the last), ...]}`` of what is read from safetensors files meanwhile."""
    from etils import epath

    reads = collections.defaultdict(list)
    kind = type(epath.Path("/"))
    plain = kind.open

    def opened(path, mode="r", **options):
        file = plain(path, mode, **options)
        return Recorded(file, reads[path.name]) if path.suffix == ".safetensors" and mode == "rb" else file

    kind.open = opened
    try:
        yield reads
    finally:
        kind.open = plain


def most_often(spans):
    """How many bytes were read, and how often the one that was read most."""
    steps = sorted([(start, 1) for start, stop in spans if stop > start] + [(stop, -1) for _, stop in spans])
    depth, deepest = 0, 0
    for _, step in sorted(steps):
        depth += step
        deepest = max(deepest, depth)
    return sum(stop - start for start, stop in spans), deepest


def load(folder):
    """Loads the checkpoint onto the devices and prints what was read and where it is."""
    import jax

    import fmzoo

    with recorded_reads() as reads:
        start = time.perf_counter()
        params = fmzoo.load(folder, "bfloat16", mesh=f"fsdp={DEVICES}").params
        seconds = time.perf_counter() - start
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    counts = {name: most_often(spans) for name, spans in reads.items()}
    held = collections.Counter()
    for leaf in jax.tree.leaves(params):
        for part in leaf.addressable_shards:
            held[part.device.id] += part.data.nbytes
    print(f"loaded onto {DEVICES} devices in {seconds:.1f} s")
    print(f"  bytes in the files {sum(sizes.values()):,}, read {sum(count for count, _ in counts.values()):,}")
    print(f"  a byte was read {max(often for _, often in counts.values())} times at most")
    print(f"  bytes on a device: {min(held.values()):,} to {max(held.values()):,}")


def main():
    """Makes, converts, compares, loads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--formats", default="huggingface,gguf")
    parser.add_argument("--load", action="store_true", help="only load what is there, in this process")
    options = parser.parse_args()
    source = options.folder / "source"
    if options.load:
        load(source)
        return
    print(f"made {make(source, CONFIG):,} parameters in {len(list(source.glob('*.safetensors')))} files")
    for name in options.formats.split(","):
        target, start = options.folder / name, time.perf_counter()
        memory = peak_memory([sys.executable, "-m", "fmzoo", "convert", source, target, "--format", name])
        size = sum(path.stat().st_size for path in target.glob("*"))
        print(f"{name}: peak memory {memory / 1e9:.2f} GB, {size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s")
        if name == "huggingface":
            print(f"  tensors that differ from the source: {different_tensors(source, target) or 'none'}")
        shutil.rmtree(target)
    devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}", "JAX_PLATFORMS": "cpu"}
    memory = peak_memory([sys.executable, __file__, "--load", "--folder", options.folder], **devices)
    print(f"  peak memory {memory / 1e9:.2f} GB")
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
