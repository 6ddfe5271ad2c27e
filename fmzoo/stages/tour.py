"""The tour: a language model of English trained here and now, held against n-grams, and heard."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from fmzoo import data, evals, generate, models, train
from fmzoo.models import Pretrained
from fmzoo.pretrained import load
from fmzoo.stages.ngrams import Level, kneser_ney_levels
from fmzoo.stages.plots import plot_loss
from fmzoo.stages.pretrain import PretrainConfig, pretrain
from fmzoo.stages.run_folder import check_workdir, is_finished
from fmzoo.stages.tour_folder import check_folder, open_console

# A window of the training length lets the model speak on beyond it, since no distance is new to it then.
MODEL = models.DecoderConfig(
    vocab_size=2048,
    d_model=192,
    num_layers=4,
    context_length=1024,
    attention=models.AttentionConfig(num_heads=3, num_kv_heads=1, head_dim=64, window=256),
    mlp=models.MlpConfig(d_ff=512),
    pattern=("local",),
    tied_head=True,
    layers="unrolled",
    transposed_inputs=True,
)
OPTIMIZER = train.OptimizerConfig(
    name="muon", learning_rate=8e-3, schedule="linear", warmup_steps=20, final_fraction=0.0
)
CONFIG = PretrainConfig(
    model=MODEL,
    optimizer=OPTIMIZER,
    data="classics",
    batch_size=16,
    sequence_length=256,
    steps=440,
    checkpoint_every=110,
)
SAMPLE, TEMPERATURE = 500, 0.7  # characters of the sample, and how boldly it is drawn
WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
REPORT = "report.md"
CONTENTS = ("run", "loss.png", REPORT)


class Sample(NamedTuple):
    """What the model said, and how many of its words it can have read.

    Attributes:
      text: of `SAMPLE` characters.
      words: how many there are.
      known: how many of them occur in the training text, spelled the same.
    """

    text: str
    words: int
    known: int

    @property
    def claim(self) -> str:
        """The share of words, as a sentence."""
        share = self.known / max(self.words, 1)
        return f"Of its {self.words} words {self.known} ({share:.0%}) occur in the training text, spelled the same."


def tour(out: epath.PathLike, config: PretrainConfig = CONFIG) -> bool:
    """Trains a language model, measures it and n-grams on works that neither saw, and lets it speak.

    Shows each stage on standard output. The folder gets ``run/`` (a run folder like any other, for `fmzoo.load`),
    ``report.md`` and ``loss.png``. A tour that was stopped goes on, a finished one says so.

    Args:
      out: a folder that is new, empty, or holds a tour.
      config: of the run; its data needs the splits `train` and `test`.

    Returns:
      Whether it is finished; False if it was told to stop.

    Raises:
      InputError: the folder holds other things, or a tour of another config.
    """
    out, show = train.locate(out), open_console().print
    check_folder(out, CONTENTS)
    started = check_workdir(config, out / "run")
    if started and is_finished(config, out / "run") and (out / REPORT).exists():
        show(f"The tour in {out} is finished; see {out / REPORT}, or hear more:\n  {_speak(out)}")
        return True
    learned, held_out = (list(data.source(config.data, split, config.field)) for split in ("train", "test"))
    show("1 of 3, training", style="bold")
    show(f"On {_size(learned)}; {_size(held_out)} are held out.")
    show(f"A BPE of {config.model.vocab_size:,} tokens, then {models.parameter_count(config.model):,} parameters by "
         f"{config.steps:,} steps of {config.batch_size} x {config.sequence_length} tokens.")  # fmt: skip
    if not pretrain(config, out / "run"):
        show("Stopped and saved; the same line again goes on.")
        return False
    pretrained = load(out / "run")
    show("2 of 3, measuring", style="bold")
    show("On the works held out, beside n-grams of the same training text:")
    levels = []
    for level in measure(pretrained, learned, held_out, config.sequence_length):
        levels.append(level)
        show(f"  {level.name}: {level.bits_per_byte:.3f} bits per byte")
    show(make_table(levels))
    show(f"3 of 3, speaking at temperature {TEMPERATURE}", style="bold")
    said = draw_sample(pretrained, learned, config.seed)
    show(said.text, style="italic")
    show(said.claim)
    curve = train.read_rows(out / "run" / "metrics.jsonl")
    plot_loss(curve, out / "loss.png", {level.name: level.nats_per_token for level in levels})
    train.replace_text(out / REPORT, write_up(config, out, learned, held_out, levels, said))
    show(f"Written: {out / REPORT}. Hear more:\n  {_speak(out)}")
    return True


def measure(pretrained: Pretrained, learned: Sequence[str], held_out: Sequence[str], context: int) -> Iterator[Level]:
    """The model, then n-grams, on documents that none of them saw; each as soon as it is known."""
    found = evals.perplexity(pretrained, held_out, context=context)
    yield Level("this model", found.bits_per_byte, found.nats_per_token)
    yield from kneser_ney_levels(pretrained.tokenizer, learned, held_out)


def draw_sample(pretrained: Pretrained, learned: Sequence[str], seed: int) -> Sample:
    """The first of a few answers to nothing at all that is long enough; they differ only by their place."""
    prompts = ["" if pretrained.tokenizer.bos_id is not None else "\n"] * 4
    room = min(SAMPLE, pretrained.config.context_length - 8)
    found = generate.text(pretrained, prompts, jax.random.key(seed), max_new_tokens=room, temperature=TEMPERATURE)
    said = next((answer.text for answer in found if len(answer.text) >= SAMPLE), max(found, key=_length).text)[:SAMPLE]
    return count_words(said, learned)


def count_words(said: str, learned: Iterable[str]) -> Sample:
    """How many of a text's words occur in documents, whole and spelled the same."""
    words = WORD.findall(said)
    vocabulary = {word for document in learned for word in WORD.findall(document)}
    return Sample(said, len(words), sum(word in vocabulary for word in words))


def make_table(levels: Sequence[Level]) -> Any:
    """The levels as a table of rich, best first."""
    from rich.table import Table

    table = Table("on the held-out works", "bits per byte", "nats a token")
    for column in table.columns[1:]:
        column.justify = "right"
    for level in sorted(levels, key=lambda level: level.bits_per_byte):
        style = "bold" if level is levels[0] else None
        table.add_row(level.name, f"{level.bits_per_byte:.4f}", f"{level.nats_per_token:.4f}", style=style)
    return table


def write_up(
    config: PretrainConfig,
    out: epath.Path,
    learned: Sequence[str],
    held_out: Sequence[str],
    levels: Sequence[Level],
    said: Sample,
) -> str:
    """The text of ``report.md``: every figure with how it came about."""
    seconds = sum(row["seconds"] for row in train.read_rows(out / "run" / "timing.jsonl"))
    tokens = config.steps * config.batch_size * config.sequence_length
    rows = "\n".join(f"| {v.name} | {v.bits_per_byte:.4f} | {v.nats_per_token:.4f} |" for v in levels)
    return f"""# A tour: a language model of English

`fmzoo tour --out {out}` trained a decoder on {_size(learned)} ({config.data}) and measured it on {_size(held_out)} that
were kept from model, tokenizer and tuning.

| what | value |
| --- | --- |
| parameters | {models.parameter_count(config.model):,} |
| layers x width | {config.model.num_layers} x {config.model.d_model} |
| tokens of the BPE | {config.model.vocab_size:,} |
| optimizer | {config.optimizer.name}, peak {config.optimizer.learning_rate:g} |
| steps | {config.steps:,} of {config.batch_size} x {config.sequence_length} tokens, {tokens:,} in all |
| time of the steps | {seconds:.0f} s on {os.cpu_count()} cores |

## On the held-out works

| predictor | bits per byte | nats a token |
| --- | ---: | ---: |
{rows}

The n-grams are interpolated modified Kneser-Ney over the same training text; their discounts were chosen by the
likelihood of a tenth of it. Nats are given by the model's tokens throughout.

![Training loss by step beside the levels above](loss.png)

## A sample

Drawn at temperature {TEMPERATURE} from the beginning of a document. {said.claim}

```text
{said.text}
```

More: `{_speak(out)}`
"""


def _length(answer: generate.Completion) -> int:
    return len(answer.text)


def _size(documents: Sequence[str]) -> str:
    return f"{len(documents):,} documents of {sum(len(d.encode()) for d in documents) / 1e6:.1f} MB"


def _speak(out: epath.Path) -> str:
    return f'fmzoo generate {out / "run"} --prompt "Shall I compare thee"'
