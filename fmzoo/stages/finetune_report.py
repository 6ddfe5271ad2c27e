"""``report.md`` of instruction tuning: how likely held-out answers are before and after, and an answer."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from fmzoo import data, generate, models, objectives, train
from fmzoo.data.conversations import Conversations
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.stages.finetune_text import FinetuneRun, FinetuneTextConfig, make_chat
from fmzoo.stages.plots import plot_loss

LIMIT, ANSWER = 128, 64  # held-out conversations that are scored; tokens of the answer that is shown


def write_report(config: FinetuneTextConfig, workdir: epath.Path, run: FinetuneRun, trained: Any) -> None:
    """Writes ``report.md`` and ``loss.png`` into a finished run's folder.

    Args:
      config: of the run.
      workdir: of the run.
      run: what was run.
      trained: the parameters that were trained, averaged if an average is kept; None with several hosts, which have
        them nowhere whole: then the report has the curve alone.
    """
    rows = train.read_rows(workdir / "metrics.jsonl")
    plot_loss(rows, workdir / "loss.png")
    loss, steps = train.closing_mean(rows, "loss")
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: run.state.params)))
    lines = [
        f"# {config.source}, tuned on {config.data}",
        "",
        "| what | value |",
        "| --- | --- |",
        f"| parameters trained | {count:,} |",
        f"| steps | {config.steps:,} of {config.batch_size} x {config.sequence_length} tokens |",
        f"| loss, mean of the last {steps} steps | {loss:.4f} nats a token |",
        f"| updates skipped | {sum(bool(row.get('skipped')) for row in rows)} |",
    ]
    held_out = None if trained is None else validation(config)
    said: list[str] = []
    if held_out is not None:
        source = run.pretrained
        params = models.join(source.params, trained, config.scale) if config.rank else trained
        tuned = dataclasses.replace(source, params=params)
        name = f"answers of {len(held_out)} validation conversations, nats a token"
        before, after = (answer_nats(config, pretrained, held_out) for pretrained in (source, tuned))
        lines.append(f"| {name}, before and after | {before:.4f}, {after:.4f} |")
        said = sample(config, tuned, held_out[0])
    train.replace_text(workdir / "report.md", "\n".join([*lines, "", "![loss by step](loss.png)", "", *said]))


def validation(config: FinetuneTextConfig) -> Sequence[data.Conversation] | None:
    """The first held-out conversations; None if the data has no such split."""
    try:
        found = Conversations(data.records(config.data, "validation", config.format))
    except InputError:
        return None
    return [found[index] for index in range(min(len(found), LIMIT))]


def answer_nats(
    config: FinetuneTextConfig, pretrained: Pretrained, conversations: Sequence[data.Conversation]
) -> float:
    """The mean negative log-likelihood of a token of the answers, NaN if none of them fits into a row."""
    chat = make_chat(config, pretrained)
    documents = [chat.document(conversation, config.train_on) for conversation in conversations]
    objective = objectives.next_token(pretrained.module, chunk=config.loss_chunk, train=False)
    total = weight = 0.0

    @jax.jit
    def score(params: Any, batch: Mapping[str, Any]) -> Any:
        return objective(params, {}, batch, jax.random.key(0))[0]["loss"]

    for row in data.pack_documents(documents, config.sequence_length):
        found = score(pretrained.params, data.stack_rows([row], [0]))
        total, weight = total + float(found.total), weight + float(found.weight)
    return total / weight if weight else math.nan


def sample(config: FinetuneTextConfig, tuned: Pretrained, conversation: data.Conversation) -> list[str]:
    """What the tuned model answers to a conversation's last question, as Markdown; nothing if there is no room."""
    asked = list(conversation.messages)
    while asked and asked[-1]["role"] == "assistant":
        asked.pop()
    try:
        prompt = generate.chat_prompt(tuned, asked, max_new_tokens=ANSWER)
    except InputError:
        return []
    key = jax.random.key(config.seed)
    answer = generate.text(tuned, prompt.tokens, key, max_new_tokens=ANSWER, stop=prompt.stop)[0].text
    said = {"Asked:": str(asked[-1]["content"]), "Answered:": answer}
    return [line for name, words in said.items() for line in (name, "", "```text", words, "```", "")]
