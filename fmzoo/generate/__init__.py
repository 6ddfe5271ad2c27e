"""Drawing outputs: text decoding with a cache, pictures by one scan over noise levels."""

from fmzoo.generate.answers import Completion
from fmzoo.generate.conversation import ChatPrompt, chat_prompt, find_template
from fmzoo.generate.decoding import Decoded, decode, for_decoding
from fmzoo.generate.images import images
from fmzoo.generate.pictures import to_bytes
from fmzoo.generate.sampling import SamplingConfig
from fmzoo.generate.text import stream, text

__all__ = [
    "ChatPrompt",
    "Completion",
    "Decoded",
    "SamplingConfig",
    "chat_prompt",
    "decode",
    "find_template",
    "for_decoding",
    "images",
    "stream",
    "text",
    "to_bytes",
]
