"""``report.md`` of a pretraining run: what was trained, how it went, how it speaks."""

from typing import Any

import jax
from etils import epath

from fmzoo import data, evals, generate, models, train
from fmzoo.errors import InputError
from fmzoo.stages.plots import plot_loss


def write_report(config: Any, workdir: epath.Path, pretrained: models.Pretrained) -> None:
    """Writes ``report.md`` and ``loss.png`` into a finished run's folder.

    Held-out text is scored if the data has a split for it. With several hosts the parameters are nowhere whole, so the
    report has the curve alone.
    """
    rows = train.read_rows(workdir / "metrics.jsonl")
    plot_loss(rows, workdir / "loss.png")
    loss, steps = train.closing_mean(rows, "loss")
    lines = [
        f"# Pretraining on {config.data}",
        "",
        "| what | value |",
        "| --- | --- |",
        f"| parameters | {models.parameter_count(config.model):,} |",
        f"| steps | {config.steps:,} of {config.batch_size} x {config.sequence_length} tokens |",
        f"| loss, mean of the last {steps} steps | {loss:.4f} nats a token |",
        f"| updates skipped | {sum(bool(row.get('skipped')) for row in rows)} |",
    ]
    if pretrained.params is not None:
        lines += [f"| {name} | {value} |" for name, value in held_out(config, pretrained).items()]
    lines += ["", "![loss by step](loss.png)", ""]
    if pretrained.params is not None:
        lines += ["```text", sample(config, pretrained), "```", ""]
    train.replace_text(workdir / "report.md", "\n".join(lines))


def held_out(config: Any, pretrained: models.Pretrained, limit: int = 32) -> dict[str, str]:
    """Bits per byte and perplexity on the first documents of the validation split; nothing if there are none."""
    try:
        documents = data.source(config.data, split="validation", field=config.field)
        documents = [documents[i] for i in range(min(len(documents), limit))]
        found = evals.perplexity(pretrained, documents, context=config.sequence_length)
    except InputError:
        return {}
    return {
        f"bits per byte, {len(documents)} validation documents": f"{found.bits_per_byte:.4f}",
        "perplexity a token": f"{found.perplexity:.2f}",
    }


def sample(config: Any, pretrained: models.Pretrained, tokens: int = 120) -> str:
    """What the model says when asked nothing; nothing if its context has no room for that."""
    prompt = "" if pretrained.tokenizer.bos_id is not None else "\n"
    tokens = min(tokens, config.model.context_length - 8)
    if tokens < 1:
        return ""
    key = jax.random.key(config.seed)
    return generate.text(pretrained, prompt, key, max_new_tokens=tokens, temperature=0.8)[0].text
