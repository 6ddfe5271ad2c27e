"""How a folder of transformers ends and frames an answer: `generation_config.json` and the chat template."""

from typing import Any

from etils import epath

from fmzoo.models import Pretrained
from fmzoo.text.files import read_json, write_bytes, write_json
from fmzoo.text.hugging_face import read_special_tokens

FILE, TEMPLATE = "generation_config.json", "chat_template.jinja"
ROLES = ("bos", "eos", "pad")


def read(folder: epath.Path, vocab_size: int) -> tuple[str | None, tuple[int, ...]]:
    """The chat template of a folder, or None, and the ids that end an answer.

    Of several templates the one named ``default`` counts. The ids are those of `generation_config.json`, or else of
    `config.json`; those outside the vocabulary are left out.

    Raises:
      InputError: a file is no JSON.
    """
    found: Any = {}
    for name in (FILE, "config.json"):
        if found.get("eos_token_id") is None and (folder / name).exists():
            found = read_json(folder / name)
    ids = found.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    template = read_special_tokens(folder).get("chat_template")
    if isinstance(template, list):
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else None
    stops = {i for i in ids if type(i) is int and 0 <= i < vocab_size}
    return template if isinstance(template, str) else None, tuple(sorted(stops))


def write(folder: epath.Path, pretrained: Pretrained) -> None:
    """Writes what a model has of these beside its tokenizer's files."""
    if pretrained.chat_template is not None:
        write_bytes(folder / TEMPLATE, pretrained.chat_template.encode())
    ids = {f"{role}_token_id": getattr(pretrained.tokenizer, f"{role}_id", None) for role in ROLES}
    if pretrained.stop_ids:
        eos = ids["eos_token_id"]
        ids["eos_token_id"] = sorted({*pretrained.stop_ids, *(() if eos is None else (eos,))})
    if ids["eos_token_id"] is not None:
        write_json(folder / FILE, {name: value for name, value in ids.items() if value is not None})
