"""Tokenizers, learning a vocabulary, and packing documents into rows: NumPy only."""

from fmzoo.text.bpe import train_bpe
from fmzoo.text.chat import Rendered, render
from fmzoo.text.chat_formats import CHAT_FORMATS
from fmzoo.text.packing import concatenate_and_split, first_fit
from fmzoo.text.prompts import PromptCut, PromptTokenizer, prompt_rows
from fmzoo.text.stream_decoder import StreamDecoder
from fmzoo.text.token_bytes import token_bytes
from fmzoo.text.tokenizers import ByteTokenizer, Tokenizer, encode_document, load_tokenizer

__all__ = [
    "CHAT_FORMATS",
    "ByteTokenizer",
    "PromptCut",
    "PromptTokenizer",
    "Rendered",
    "StreamDecoder",
    "Tokenizer",
    "concatenate_and_split",
    "encode_document",
    "first_fit",
    "load_tokenizer",
    "prompt_rows",
    "render",
    "token_bytes",
    "train_bpe",
]
