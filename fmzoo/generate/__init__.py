"""Drawing outputs: text decoding with a cache, pictures by one scan over noise levels."""

from fmzoo.generate.answers import Completion
from fmzoo.generate.constrained import constrained
from fmzoo.generate.constraints import Constraint, json_schema, lark, regex
from fmzoo.generate.conversation import ChatPrompt, chat_prompt, find_template
from fmzoo.generate.decoding import Decoded, decode, for_decoding
from fmzoo.generate.images import images
from fmzoo.generate.pictures import to_bytes
from fmzoo.generate.sampling import SamplingConfig
from fmzoo.generate.text import stream, text

__all__ = [
    "ChatPrompt",
    "Completion",
    "Constraint",
    "Decoded",
    "SamplingConfig",
    "chat_prompt",
    "constrained",
    "decode",
    "find_template",
    "for_decoding",
    "images",
    "json_schema",
    "lark",
    "regex",
    "stream",
    "text",
    "to_bytes",
]
