"""Tasks over texts, with a model that has learned nothing: what is asked, and what holds whatever it answers."""

import io
import json

import jax
import pytest

from fmzoo import models, text
from fmzoo.errors import InputError
from fmzoo.stages import tasks

SCHEMA = {
    "type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"], "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    config = models.DecoderConfig(
        vocab_size=258, d_model=16, num_layers=1, context_length=512, layers="unrolled",
        attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=16),
    )  # fmt: skip
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    template = text.CHAT_FORMATS["chatml"].replace("<|im_end|>", "<eos>")
    pretrained = models.Pretrained(module, params, config, text.ByteTokenizer(), template)
    return tasks.Model(pretrained, tasks.TaskConfig(max_new_tokens=24, temperature=1.0))


def test_extract_gives_a_value_of_the_schema(model):
    value = tasks.extract(model, "Ann sailed.", SCHEMA)
    assert set(value) == {"who"}
    assert isinstance(value["who"], str)


def test_the_same_text_gives_the_same_value_beside_others(model):
    said = [answer.text for answer in tasks.extractions(model, ["Ann sailed.", "A ship.", "Ann sailed."], SCHEMA)]
    assert said[0] == said[2] != said[1]
    assert json.loads(said[0]) == tasks.extract(model, "Ann sailed.", SCHEMA)
    assert tasks.extractions(model, ["Ann sailed."], SCHEMA, [1])[0].text != said[0]


def test_a_long_text_is_summarized_in_parts(model, monkeypatch):
    asked = []

    def say(messages):
        model.prompt(messages)  # fits, or raises
        asked.append(messages[1]["content"])
        return f"part {len(asked)}"

    monkeypatch.setattr(model, "say", say)
    story = "\n\n".join(f"Paragraph {i} tells of ship {i} and of its crew." for i in range(40))
    found = tasks.summarize(model, story, 5)
    assert found == f"part {len(asked)}"
    assert len(asked) > 5
    for i in range(40):
        assert sum(f"ship {i} and" in part for part in asked) == 1
    asked.clear()
    assert tasks.summarize(model, "short", 5) == "part 1"


def test_what_no_part_fits_is_refused(model):
    with pytest.raises(InputError, match="makes a prompt of"):
        tasks.summarize(model, "x" * 900, 10**300)


def test_texts_come_from_files_or_standard_input(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("né")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.txt").write_text(" \n")
    assert tasks.read_texts([str(tmp_path / "a.txt")]) == [(str(tmp_path / "a.txt"), "né")]
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert tasks.read_texts([]) == [("standard input", "from a pipe")]
    for name, says in (("b.txt", "not UTF-8"), ("c.txt", "holds no text"), ("d.txt", "is no file")):
        with pytest.raises(InputError, match=says):
            tasks.read_texts([str(tmp_path / name)])


def test_schemas(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    assert tasks.read_schema(str(path)) == SCHEMA
    with pytest.raises(InputError, match="does not exist"):
        tasks.read_schema(str(tmp_path / "none.json"))
