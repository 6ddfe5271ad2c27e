"""What the experiment with prompts says of made-up figures, and what it measures of a model that learned nothing."""

import io
import tarfile

import jax
import numpy as np
import prompting
import pytest

from fmzoo import models, text
from fmzoo.prompts import Example
from fmzoo.stages.tasks import Model, TaskConfig


def made_up(shots=(0.6, 0.7, 0.8), votes=(0.3, 0.3, 0.4, 0.5)):
    """Shares by shots, and by the greedy chain and 1, 3 and 5 votes, with some noise."""
    noise = 0.05 * np.sin(np.arange(20))
    return {
        "shots": {n: value + noise for n, value in zip(prompting.SHOTS, shots, strict=True)},
        "votes": {n: value + np.roll(noise, n) for n, value in zip((0, *prompting.VOTES), votes, strict=True)},
    }


def test_each_part_can_hold_and_fail():
    said = prompting.verdicts(made_up())
    assert set(said.values()) == {"holds"}
    worse = prompting.verdicts(made_up((0.8, 0.7, 0.6), (0.5, 0.5, 0.4, 0.3)))
    assert set(worse.values()) == {"FAILS"}
    level = prompting.verdicts(made_up((0.7, 0.8, 0.8)))
    assert [level[part] for part in list(level)[:2]] == ["holds", "holds"]
    votes = prompting.verdicts(made_up(votes=(0.4, 0.3, 0.35, 0.4)))
    assert list(votes.values())[3:] == ["is not decided", "holds"]


def test_votes_are_counted_over_parts_of_the_chains():
    asked = [Example("What is 1 + 1 + 1?", "Answer: 3")]
    chains = [["Answer: 3", "Answer: 4", "3", "Answer: 4", "Answer: 4.", "none", "4", "Answer: 3", "it is 3"]]
    assert prompting.vote(chains, asked, 1).tolist() == [4 / 9]
    assert prompting.vote(chains, asked, 3).tolist() == [2 / 3]  # 3, 4 and 3
    assert prompting.vote(chains, asked, 9).tolist() == [1.0]  # the first of equals


def test_sums_are_right():
    rng = np.random.default_rng(0)
    for each in [prompting.problem(rng) for _ in range(20)]:
        right = eval(each.question.removeprefix("What is ").removesuffix("?"))
        assert prompting.vote([[each.answer]], [each], 1).tolist() == [1.0]
        assert each.answer.endswith(f"Answer: {right}")


@pytest.fixture(scope="module")
def model():
    config = models.DecoderConfig(
        vocab_size=258, d_model=16, num_layers=1, context_length=2048, layers="unrolled",
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=16),
    )  # fmt: skip
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    template = text.CHAT_FORMATS["chatml"].replace("<|im_end|>", "<eos>")
    return Model(models.Pretrained(module, params, config, text.ByteTokenizer(), template), TaskConfig())


def test_reviews_are_read_split_and_named(tmp_path, monkeypatch, model):
    lines = [f"{i}\t{(i % 9) - 4 + 0.5}\tfilm {i}" for i in range(90)] + ["90\t3.0\t" + "x" * 121, "91\t1.2\tso so"]
    ratings = archive("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", "\n".join(lines).encode())
    (tmp_path / "package.tar.gz").write_bytes(archive("package/hutto_ICWSM_2014.tar.gz", ratings))
    reviews = prompting.read_reviews(tmp_path / "package.tar.gz")
    assert len(reviews) == 70  # seven of nine ratings are far enough from 0
    assert reviews[0] == Example("Review: film 0", "negative")
    monkeypatch.setattr(prompting, "GROUPS", 3)
    monkeypatch.setattr(prompting, "GROUP", 4)
    pool, groups = prompting.hold_out(reviews, np.random.default_rng(0))
    assert len(pool) == 58
    assert all(sorted(r.answer for r in group) == ["negative"] * 2 + ["positive"] * 2 for group in groups)
    assert not {review for group in groups for review in group} & set(pool)
    named, positive = prompting.name_sentiment(model, pool, groups, 2)
    assert named.shape == (3,)
    assert 0 <= positive <= 1


def archive(name, content):
    """The bytes of an archive of one file."""
    buffer, entry = io.BytesIO(), tarfile.TarInfo(name)
    entry.size = len(content)
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
