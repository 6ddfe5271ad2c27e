"""Weights of conversations beside transformers' mask of the assistant's tokens."""

import numpy as np
import pytest

from fmzoo import text
from fmzoo.text.hugging_face import HuggingFaceTokenizer

pytestmark = pytest.mark.reference
TAGS = """
    <s> </s> <pad> <|start_header_id|> <|end_header_id|> <|eot_id|> <|im_start|> <|im_end|> <start_of_turn>
    <end_of_turn> <|user|> <|assistant|> <|system|> <|end|>
"""
PROSE = "the of an old king spoke, and: Rome? 12 ships (sunk) né 🙂 \n- so  it was ! [INST] done"
SPECIALS, WORDS = TAGS.split(), PROSE.split(" ")


def make_tokenizer():
    """A byte-level vocabulary of 400 tokens with the special tokens of all formats."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(WORDS) * 20], trainer)
    return tokenizer


def dialogues(count):
    rng = np.random.default_rng(0)

    def say(role):
        return {"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(1, 12))).strip() or "so"}

    for i in range(count):
        talk = [say("system")] if i % 3 == 0 else []
        for _ in range(rng.integers(1, 4)):
            talk += [say("user"), say("assistant")]
        yield talk


@pytest.mark.parametrize("name", text.CHAT_FORMATS)
def test_fifty_dialogues(name):
    from transformers import PreTrainedTokenizerFast

    made = make_tokenizer()
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    ours = HuggingFaceTokenizer(made.to_str(), {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    template = text.CHAT_FORMATS[name]
    learned = 0
    for talk in dialogues(50):
        want = theirs.apply_chat_template(
            talk, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        got = text.render(template, talk, ours)
        assert got.tokens == want["input_ids"]
        assert got.weights == want["assistant_masks"]
        learned += sum(got.weights)
        prompt = theirs.apply_chat_template(
            talk[:-1], chat_template=template, add_generation_prompt=True, tokenize=False
        )
        assert text.render(template, talk[:-1], ours, add_generation_prompt=True, train_on="none").text == prompt
    assert learned > 500
