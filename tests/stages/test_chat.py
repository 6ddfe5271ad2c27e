"""A conversation in the terminal, with a model that has learned nothing."""

import json

import jax
import pytest

from fmzoo import generate, models, text
from fmzoo.errors import InputError
from fmzoo.stages.chat import ChatConfig, chat
from fmzoo.stages.tasks import TaskConfig

CONFIG = models.DecoderConfig(
    vocab_size=258, d_model=16, num_layers=1, context_length=160, layers="unrolled",
    attention=models.AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=8), mlp=models.MlpConfig(d_ff=32),
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def pretrained():
    module = models.Decoder(CONFIG)
    params = jax.jit(module.init)(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"]
    return models.Pretrained(module, params, CONFIG, text.ByteTokenizer(), TEMPLATE)


def talk(pretrained, *lines, **config):
    """The messages after the lines, and all that was shown."""
    said, left = [], list(lines)

    def read():
        if not left:
            raise EOFError
        return left.pop(0)

    return chat(pretrained, ChatConfig(max_new_tokens=8, **config), read, said.append), "".join(said)


def test_turns_are_kept_and_counted(pretrained):
    messages, shown = talk(pretrained, "hi", "", "bye", "/exit", "not heard", system="Be kind.")
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert shown.count(" of 160 tokens of context; cut at 8 tokens]") == 2
    assert talk(pretrained, "hi", "", "bye", system="Be kind.")[0] == messages
    assert talk(pretrained, "hi", "", "bye", system="Be kind.", seed=1)[0] != messages


def test_commands(pretrained, tmp_path):
    path = tmp_path / "talk.json"
    messages, shown = talk(pretrained, "hi", "/retry", f"/save {path}", "/what")
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert json.loads(path.read_text()) == {"messages": messages}
    assert "/retry" in shown
    assert talk(pretrained, "hi", "/system Be brief.", "/retry")[0] == [{"role": "system", "content": "Be brief."}]
    assert "there is no message to answer again" in talk(pretrained, "/retry")[1]
    assert "/save needs a file" in talk(pretrained, "/save /no/such/folder/x")[1]
    assert "/save needs a file" in talk(pretrained, f"/save {tmp_path}")[1]


def test_a_full_disk_ends_no_conversation(pretrained, tmp_path, monkeypatch):
    def fail(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fmzoo.stages.chat.write_json", fail)
    messages, shown = talk(pretrained, "hi", f"/save {tmp_path / 'x'}", "bye")
    assert "cannot be written (No space left on device)" in shown
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2


@pytest.mark.parametrize("kind", [ChatConfig, TaskConfig])
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"seed": 2**70}, "seed is 1180591620717411303424; a whole number from 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(kind, values, says):
    with pytest.raises(InputError, match=says):
        kind(**values)


def test_the_oldest_turns_make_room(pretrained):
    history = [{"role": "system", "content": "S"}]
    for i in range(4):
        history += [{"role": "user", "content": f"{i}" * 20}, {"role": "assistant", "content": "a" * 10}]
    history.append({"role": "user", "content": "last"})
    prompt = generate.chat_prompt(pretrained, history, max_new_tokens=8)
    said = bytes(i for i in prompt.tokens if i < 256).decode()
    assert prompt.dropped == 4
    assert said.startswith("system: Suser: 2222")
    assert len(prompt.tokens) <= 152
    assert prompt.stop == ("<eos>",)
    shown = talk(pretrained, *["x" * 40] * 3)[1]
    assert "messages no longer fit" in shown


def test_what_cannot_be_answered_is_told_and_forgotten(pretrained):
    messages, shown = talk(pretrained, "y" * 200)
    assert messages == []
    assert "the last message makes a prompt of" in shown
    with pytest.raises(InputError, match="the last message is the assistant's"):
        generate.chat_prompt(pretrained, [{"role": "assistant", "content": "a"}])


@pytest.mark.parametrize(
    ("template", "says"), [(None, "carries no chat template"), ("chatlm", "chat format 'chatlm' is not known")]
)
def test_a_model_without_a_template(pretrained, template, says):
    bare = models.Pretrained(pretrained.module, pretrained.params, CONFIG, text.ByteTokenizer())
    with pytest.raises(InputError, match=says):
        talk(bare, "hi", template=template)
    assert talk(bare, "hi", template="chatml")[0][0] == {"role": "user", "content": "hi"}
