"""The decoder beside transformers on torch: training step, generation, start-up, as ratios of medians.

    python benchmarks/decoder.py train --sizes 5M 25M 110M --rounds 5
    python benchmarks/decoder.py generate --rounds 5
    python benchmarks/decoder.py startup --rounds 3
    python benchmarks/decoder.py profile --sizes 25M

Each side runs in a process of its own; the parent lets them work in turn (ours, theirs, ours, ...), so that both meet
the same machine, and prints one JSON object: medians in seconds, and ratios above 1 where ours is quicker. Needs the
`reference` extra. Float32, random weights, the same shapes on both sides.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from generate import fmzoo_greedy, torch_greedy
from operations import profile
from turns import in_turn, serve

SIZES = {  # d_model, layers, heads, kv heads, d_ff, vocabulary, sequence, batch, tied
    "5M": (256, 6, 4, 2, 704, 4096, 256, 8, True),
    "25M": (512, 8, 8, 4, 1408, 8192, 256, 8, True),
    "110M": (768, 12, 12, 4, 2048, 32000, 512, 2, True),
}
NEW = 128  # tokens after a prompt of 64


def fmzoo_decoder(size, **changes):
    import jax

    from fmzoo import models

    d, layers, heads, kv, ff, vocab, length, batch, tied = SIZES[size]
    config = models.DecoderConfig(
        vocab_size=vocab, d_model=d, num_layers=layers, context_length=2048, mlp=models.MlpConfig(d_ff=ff),
        attention=models.AttentionConfig(num_heads=heads, num_kv_heads=kv, head_dim=d // heads), tied_head=tied,
        layers="unrolled", transposed_inputs=True,
    )  # fmt: skip
    module = models.Decoder(models.replace(config, **changes))
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    return module, params, length, batch


def ours_train(size, **changes):
    """A step with AdamW, the state donated, as `fmzoo pretrain` runs it on one device."""
    from fmzoo.parallel import allocator

    allocator.keep_heap()
    import jax
    import numpy as np
    import optax

    from fmzoo import objectives, train

    module, params, length, batch = fmzoo_decoder(size, **changes)
    optimizer = optax.adamw(3e-4, 0.9, 0.95, weight_decay=0.1)
    step = train.update(train.gradients(objectives.next_token(module)), optimizer)
    step = jax.jit(train.skip_nonfinite(step), donate_argnums=0)
    state = train.init_state(params, optimizer, jax.random.key(0), copy=False)
    tokens = np.random.default_rng(0).integers(0, SIZES[size][5], (batch, length + 1)).astype(np.int32)
    fields = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((batch, length), np.float32)}
    fields["example_id"] = np.arange(batch, dtype=np.int32)

    def run(count):
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, {}, fields)
        return float(metrics["loss"])

    return run


def hugging_face(size):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    d, layers, heads, kv, ff, vocab, length, batch, tied = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=d, intermediate_size=ff, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, head_dim=d // heads, max_position_embeddings=2048, tie_word_embeddings=tied,
        attn_implementation="sdpa",
    )  # fmt: skip
    return torch, LlamaForCausalLM(config), length, batch


def torch_train(size):
    """The same step by transformers on torch, eager, with torch's fused AdamW."""
    torch, model, length, batch = hugging_face(size)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, (0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, SIZES[size][5], (batch, length + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def run(count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            logits = model(input_ids=inputs, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


def ours_generate(size, rows):
    """Greedy decoding of weights laid out once."""
    module, params, _, _ = fmzoo_decoder(size)
    run = fmzoo_greedy(module, params)
    return lambda count: [run(rows, NEW) for _ in range(count)]


def torch_generate(size, rows):
    """The same by transformers."""
    torch, model, _, _ = hugging_face(size)
    run = torch_greedy(torch, model)
    return lambda count: [run(rows, NEW) for _ in range(count)]


WORKERS = {
    "fmzoo-train": ours_train,
    "torch-train": torch_train,
    "fmzoo-generate": ours_generate,
    "torch-generate": torch_generate,
}


def train_table(sizes, rounds):
    table = {}
    for size in sizes:
        count = {"5M": 4, "25M": 2, "110M": 1}[size]
        pairs = {"fmzoo": ("fmzoo-train", size), "torch": ("torch-train", size)}
        found = in_turn(__file__, pairs, rounds, count)
        d, layers, heads, kv, ff, vocab, length, batch, _ = SIZES[size]
        flops = matmul_flops(size) * length * batch
        table[size] = {name: round(value, 4) for name, value in found.items()}
        table[size] |= {"ratio": round(found["torch"] / found["fmzoo"], 3)}
        table[size] |= {"fmzoo GFLOP/s": round(flops / found["fmzoo"] / 1e9, 1)}
    return table


def matmul_flops(size):
    """A token's operations in training, by the formula of `fmzoo.models.flops_per_token`."""
    from fmzoo import models

    d, layers, heads, kv, ff, vocab, length, _, tied = SIZES[size]
    attention = models.AttentionConfig(num_heads=heads, num_kv_heads=kv, head_dim=d // heads)
    config = models.DecoderConfig(
        vocab_size=vocab, d_model=d, num_layers=layers, attention=attention, mlp=models.MlpConfig(d_ff=ff),
        tied_head=tied,
    )  # fmt: skip
    return models.flops_per_token(config, length)


def generate_table(rounds):
    table = {}
    for rows in (1, 8):
        pairs = {"fmzoo": ("fmzoo-generate", "110M", rows), "transformers": ("torch-generate", "110M", rows)}
        found = in_turn(__file__, pairs, rounds, 1)
        table[f"batch {rows}"] = {name: round(value, 3) for name, value in found.items()}
        table[f"batch {rows}"] |= {"ratio": round(found["transformers"] / found["fmzoo"], 3)}
        table[f"batch {rows}"] |= {"fmzoo tokens/s": round(rows * NEW / found["fmzoo"], 1)}
    return table


def startup_table(rounds):
    """Whole processes, from nothing to the end of a first 5M training step."""
    code = "import sys; sys.argv = ['x']; sys.path.insert(0, {0!r}); import decoder; decoder.WORKERS[{1!r}]('5M')(1)"
    folder = __file__.rpartition("/")[0] or "."
    seconds = {"fmzoo": [], "torch": []}
    for _ in range(rounds):
        for name in seconds:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code.format(folder, f"{name}-train")], check=True)
            seconds[name].append(time.perf_counter() - start)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    return {**{k: round(v, 2) for k, v in found.items()}, "ratio": round(found["torch"] / found["fmzoo"], 3)}


def profile_table(sizes):
    """Where our training steps and greedy decoding at batch 1 and 8 spend their time."""
    table = {}
    for size in sizes:
        table[f"training step, {size}"] = profile(ours_train(size))
        table |= {f"decoding, {size}, batch {rows}": profile(ours_generate(size, rows)) for rows in (1, 8)}
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "generate", "startup", "profile"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.what == "train":
        found = train_table(given.sizes, given.rounds)
    elif given.what == "profile":
        found = profile_table(given.sizes)
    else:
        found = {"generate": generate_table, "startup": startup_table}[given.what](given.rounds)
    print(json.dumps({given.what: found}, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        serve(WORKERS[sys.argv[2]](sys.argv[3], *map(int, sys.argv[4:])), warm=[(3,)])
    else:
        main()
