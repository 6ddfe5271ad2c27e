"""A config of another project, read attribute by attribute, so that none which matters is overlooked."""

from collections.abc import Mapping
from typing import Any

from fmzoo.errors import InputError

# Attributes of transformers that change no logit: bookkeeping, ids, training only, or how a call returns its results.
HARMLESS = frozenset(
    {
        "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "activation_dropout",
        "architectures", "attn_implementation", "bos_token_id", "cache_implementation", "classifier_dropout",
        "decoder_start_token_id", "do_sample", "dtype", "early_stopping", "eos_token_id", "gradient_checkpointing",
        "id2label", "init_std", "initializer_range", "is_llama_config", "keys_to_ignore_at_inference", "label2id",
        "layerdrop", "length_penalty", "max_length", "max_new_tokens", "max_sequence_length", "min_length",
        "model_type", "name_or_path", "no_repeat_ngram_size", "num_beams", "num_labels", "num_return_sequences",
        "output_attentions", "output_hidden_states", "output_past", "pad_token_id", "prefix", "pretraining_tp",
        "problem_type", "repetition_penalty", "return_dict", "task_specific_params", "temperature",
        "tie_last_hidden_states", "tokenizer_class", "top_k", "top_p", "torch_dtype", "transformers.js_config",
        "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version", "use_cache", "use_return_dict",
    }
)  # fmt: skip
# Attributes of transformers that would change what the model computes, unless they have the value given here.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "chunk_size_feed_forward": (0,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "per_layer_config": (None,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "rope_interleaved": (False,),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False, None),
}
LARGEST = 2**31 - 1
LARGEST_NUMBER = 1e300


class Attributes:
    """Attributes that are taken one by one; `close` refuses what nobody took.

    Args:
      values: the attributes given.
      defaults: what an attribute is that is not given.
      source: what the attributes come from, for error messages.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], source: str):
        self._values, self._defaults, self.source = values, defaults, source
        self._taken: set[str] = set()

    def take(self, name: str, *kinds: type, optional: bool = False) -> Any:
        """The value of an attribute, or its default.

        Raises:
          InputError: it is of none of the kinds (an int is a float, a bool is no int), or None and not optional.
        """
        self._taken.add(name)
        value = self._values.get(name, self._defaults.get(name))
        if value is None and not optional:
            value = self._defaults.get(name)
        kind = float if type(value) is int and int not in kinds else type(value)
        if kind not in kinds and not (value is None and optional):
            raise self.refuse(name, value, " or ".join(k.__name__ for k in kinds))
        return value

    def integer(self, name: str, *, optional: bool = False, least: int = 1, most: int = LARGEST) -> Any:
        """The value of an attribute that is a whole number in a range, or None if that is allowed."""
        value = self.take(name, int, optional=optional)
        if value is not None and not least <= value <= most:
            raise self.refuse(name, value, f"{least} to {most}")
        return value

    def number(self, name: str, *, optional: bool = False, above: float = -LARGEST_NUMBER) -> Any:
        """The value of an attribute that is a finite number above a bound, or None if that is allowed."""
        value = self.take(name, float, optional=optional)
        if value is not None and not above < value < LARGEST_NUMBER:
            raise self.refuse(name, value, f"a number above {above:g}")
        return value if value is None else float(value)

    def demand(self, name: str, *accepted: Any) -> None:
        """Takes an attribute which, if it is given, must have one of these values."""
        self._taken.add(name)
        if name in self._values and self._values[name] not in accepted:
            raise self.refuse(name, self._values[name], " or ".join(map(repr, accepted)))

    def one_of(self, name: str, options: Mapping[str, Any]) -> Any:
        """What an attribute's value stands for."""
        value = self.take(name, str)
        if value not in options:
            raise self.refuse(name, value, " or ".join(options))
        return options[value]

    def refuse(self, name: str, value: Any, accepted: str) -> InputError:
        """The error for a value that is not accepted."""
        return InputError(f"{self.source} has {name} {str(value)[:60]!r}; {accepted[:100]} is needed")

    def close(self) -> None:
        """Refuses attributes that nobody took and that could matter."""
        for name, accepted in NEUTRAL.items():
            self.demand(name, *accepted)
        for name, value in self._values.items():
            if name not in HARMLESS and name not in self._taken:
                raise InputError(
                    f"{self.source} has {name[:60]!r} ({repr(value)[:60]}), which is not known here; without knowing "
                    "what it does the model cannot be trusted"
                )
