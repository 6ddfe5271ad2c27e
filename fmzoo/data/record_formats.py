"""Published layouts of instructions and feedback, each a function from a line's fields to a record.

``place`` says where a line stands; whatever is wrong with it ends in one sentence with that place and the field.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fmzoo.data.records import Conversation, Judged, Message, Messages, Preference, Problem, Ranking, Record
from fmzoo.data.text_files import LONE_SURROGATE
from fmzoo.errors import InputError, nearest

Fields = Mapping[str, Any]
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bot": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
GSM8K_ANSWER = re.compile(r"####\s*(.+?)\s*$")


def read_messages(fields: Fields, place: str) -> Conversation:
    """``{"messages": [{"role", "content"}]}``."""
    return _conversation(messages_of(fields, "messages", place), place, "messages")


def read_sharegpt(fields: Fields, place: str) -> Conversation:
    """``{"conversations": [{"from": "human" | "gpt" | "system" | ..., "value"}], "system"?}``, of FastChat's Vicuna."""
    messages: list[Message] = []
    for i, turn in enumerate(_list(fields, "conversations", place)):
        name = f"conversations[{i}]"
        if not isinstance(turn, Mapping):
            raise InputError(
                f"{place} field {name} is a {type(turn).__name__}; an object with from and value is needed"
            )
        role = text_of_field(turn, "from", f"{place} field {name}")
        if role not in SHAREGPT_ROLES:
            raise InputError(f"{place} field {name} is from {role[:40]!r}; {nearest(role, SHAREGPT_ROLES)}")
        content = text_of_field(turn, "value", f"{place} field {name}")
        messages.append({"role": SHAREGPT_ROLES[role], "content": content})
    if fields.get("system"):
        messages.insert(0, {"role": "system", "content": text_of_field(fields, "system", place)})
    return _conversation(tuple(messages), place, "conversations")


def read_alpaca(fields: Fields, place: str) -> Conversation:
    """``{"instruction", "input"?, "output"}``, of Stanford's Alpaca: the input follows the instruction."""
    instruction = text_of_field(fields, "instruction", place)
    given = text_of_field(fields, "input", place) if fields.get("input") else ""
    prompt = f"{instruction}\n\n{given}" if given else instruction
    return Conversation((*_said(prompt), _answer(text_of_field(fields, "output", place))))


def read_prompt_completion(fields: Fields, place: str) -> Conversation:
    """``{"prompt", "completion"}``, each a text or messages."""
    prompt = prompt_of(fields, "prompt", place)
    return Conversation((*prompt, _answer(completion_of(fields, "completion", place))))


def read_preference(fields: Fields, place: str) -> Preference:
    """``{"prompt"?, "chosen", "rejected"}``, texts or messages; without a prompt, what both sides begin with is it.

    Ratings are read from ``chosen_rating`` and ``rejected_rating``, or ``score_chosen`` and ``score_rejected``.
    """
    if fields.get("prompt") is not None:
        prompt = prompt_of(fields, "prompt", place)
        sides = [_after(prompt, fields, side, place) for side in ("chosen", "rejected")]
        return _preference(prompt, *sides, fields, place)
    conversations = [messages_of(fields, side, place) for side in ("chosen", "rejected")]
    return _preference(*_common(*conversations, place), fields, place)


def read_hh(fields: Fields, place: str) -> Preference:
    r"""``{"chosen", "rejected"}``, each ``"\n\nHuman: ...\n\nAssistant: ..."``, of Anthropic's HH-RLHF."""
    sides = [_hh_messages(text_of_field(fields, side, place), side, place) for side in ("chosen", "rejected")]
    return _preference(*_common(*sides, place), fields, place)


def read_ranking(fields: Fields, place: str) -> Ranking:
    """``{"prompt", "responses": [text], "ratings": [number]}``."""
    responses, ratings = _list(fields, "responses", place), _list(fields, "ratings", place)
    if len(responses) != len(ratings) or len(responses) < 2:
        raise InputError(f"{place} has {len(responses)} responses and {len(ratings)} ratings; at least 2, and as many")
    texts = tuple(completion_of({"responses": text}, "responses", place) for text in responses)
    return Ranking(prompt_of(fields, "prompt", place), texts, tuple(_number(r, "ratings", place) for r in ratings))


def read_judged(fields: Fields, place: str) -> Judged:
    """``{"prompt", "completion", "label": true | false}``, of KTO."""
    label = fields.get("label")
    if not (isinstance(label, bool) or (isinstance(label, int) and label in (0, 1))):
        raise InputError(f"{place} field 'label' is {str(label)[:40]!r}; true or false is needed")
    completion = completion_of(fields, "completion", place)
    return Judged(prompt_of(fields, "prompt", place), completion, bool(label))


def read_problem(fields: Fields, place: str) -> Problem:
    """``{"question", "answer": "... #### 42"}``, of GSM8K: the final answer stands behind ``####``, commas left out."""
    solution = text_of_field(fields, "answer", place)
    found = GSM8K_ANSWER.search(solution)
    answer = found.group(1).replace(",", "") if found else solution.strip()
    return Problem(_said(text_of_field(fields, "question", place)), solution, answer)


def read_prompt(fields: Fields, place: str) -> Problem:
    """``{"prompt", "answer"?}``: a prompt to answer."""
    answer = text_of_field(fields, "answer", place) if fields.get("answer") is not None else ""
    return Problem(prompt_of(fields, "prompt", place), "", answer)


# In the order in which a record is taken for one of them: by the fields that it needs to have.
FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Fields, str], Record]]] = {
    "messages": (("messages",), read_messages),
    "sharegpt": (("conversations",), read_sharegpt),
    "hh": (("chosen", "rejected"), read_hh),
    "preference": (("chosen", "rejected"), read_preference),
    "ranking": (("prompt", "responses", "ratings"), read_ranking),
    "judged": (("prompt", "completion", "label"), read_judged),
    "prompt_completion": (("prompt", "completion"), read_prompt_completion),
    "alpaca": (("instruction", "output"), read_alpaca),
    "problem": (("question", "answer"), read_problem),
    "prompt": (("prompt",), read_prompt),
}


def guess_format(fields: Fields, place: str) -> str:
    """The name in `FORMATS` of the layout that a record has.

    Raises:
      InputError: it has none of them.
    """
    for name, (needed, _) in FORMATS.items():
        chosen = fields.get("chosen")
        written_out = isinstance(chosen, str) and HH_TURN.match(chosen) and not fields.get("prompt")
        if all(field in fields for field in needed) and (name != "hh" or written_out):
            return name
    layouts = "; ".join(f"{name}: {', '.join(needed)}" for name, (needed, _) in FORMATS.items() if name != "hh")
    raise InputError(
        f"{place} has the fields {sorted(map(str, fields))[:6]}; those of one layout are needed ({layouts})"[:299]
    )


def text_of_field(fields: Fields, field: str, place: str) -> str:
    """A field that is a text.

    Raises:
      InputError: it is missing, something else, or no Unicode.
    """
    if field not in fields:
        raise InputError(f"{place} has no field {field!r}; {nearest(field, fields)}"[:299])
    value = fields[field]
    if not isinstance(value, str):
        raise InputError(f"{place} has a {type(value).__name__} in {field!r}; a text is needed")
    if LONE_SURROGATE.search(value):
        raise InputError(f"{place} has half a character (a lone surrogate) in {field!r}; Unicode text is needed")
    return value


def messages_of(fields: Fields, field: str, place: str) -> Messages:
    """A field that is a list of messages; what else a message has, such as tool calls, is kept."""
    messages = _list(fields, field, place)
    for i, message in enumerate(messages):
        where = f"{place} field {field}[{i}]"
        if not isinstance(message, Mapping):
            raise InputError(f"{where} is a {type(message).__name__}; an object with role and content is needed")
        text_of_field(message, "role", where)
        if not message.get("tool_calls"):
            text_of_field(message, "content", where)
    return tuple(dict(message) for message in messages)


def prompt_of(fields: Fields, field: str, place: str) -> Messages:
    """A prompt that is a text, which a user says, or a list of messages."""
    if isinstance(fields.get(field), str) or field not in fields:
        return _said(text_of_field(fields, field, place))
    return messages_of(fields, field, place)


def completion_of(fields: Fields, field: str, place: str) -> str:
    """An answer that is a text or a list of one message."""
    if isinstance(fields.get(field), str) or field not in fields:
        return text_of_field(fields, field, place)
    return _last_answer(messages_of(fields, field, place), 0, field, place)


def _said(prompt: str) -> Messages:
    return ({"role": "user", "content": prompt},)


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _list(fields: Fields, field: str, place: str) -> Sequence[Any]:
    value = fields.get(field)
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{place} field {field!r} is {str(value)[:40]!r}; a list that is not empty is needed")
    return value


def _number(value: Any, field: str, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{place} field {field!r} has {str(value)[:40]!r}; a number is needed")
    return float(value)


def _conversation(messages: Messages, place: str, field: str) -> Conversation:
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place} field {field!r} has no assistant turn; one to learn from is needed")
    return Conversation(messages)


def _after(prompt: Messages, fields: Fields, side: str, place: str) -> str:
    """An answer beside a prompt; as messages it may hold the prompt too."""
    if isinstance(fields.get(side), str) or side not in fields:
        return text_of_field(fields, side, place)
    messages = messages_of(fields, side, place)
    start = len(prompt) if messages[: len(prompt)] == prompt else 0
    return _last_answer(messages, start, side, place)


def _common(chosen: Messages, rejected: Messages, place: str) -> tuple[Messages, str, str]:
    """What two conversations begin with, and the one answer that each goes on with."""
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    if not shared:
        raise InputError(f"{place} fields 'chosen' and 'rejected' begin with different messages; one prompt is needed")
    answers = [_last_answer(m, shared, side, place) for side, m in (("chosen", chosen), ("rejected", rejected))]
    return chosen[:shared], *answers


def _last_answer(messages: Messages, start: int, field: str, place: str) -> str:
    rest = messages[start:]
    if len(rest) != 1 or rest[0]["role"] != "assistant":
        roles = ", ".join(str(message["role"]) for message in rest[:4])
        raise InputError(f"{place} field {field!r} goes on from the prompt with {roles}; one assistant turn is needed")
    return text_of_field(rest[0], "content", f"{place} field {field!r}")


def _preference(prompt: Messages, chosen: str, rejected: str, fields: Fields, place: str) -> Preference:
    if chosen == rejected:
        raise InputError(f"{place} has the same text in 'chosen' and 'rejected'; two answers that differ are needed")
    for names in (("chosen_rating", "rejected_rating"), ("score_chosen", "score_rejected")):
        if all(fields.get(name) is not None for name in names):
            return Preference(prompt, chosen, rejected, *(_number(fields[name], name, place) for name in names))
    return Preference(prompt, chosen, rejected)


def _hh_messages(text: str, field: str, place: str) -> Messages:
    before, *turns = HH_TURN.split(text)
    if before.strip() or not turns:
        raise InputError(f"{place} field {field!r} does not begin with a turn of Human; \\n\\nHuman: is needed")
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple({"role": HH_ROLES[role], "content": content.strip()} for role, content in pairs)
