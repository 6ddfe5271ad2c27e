"""Models by their name on the Hugging Face Hub, through its own client: its cache, its token, its offline mode."""

import re

from etils import epath

from fmzoo.errors import InputError

PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
NAME = re.compile(rf"({PART}/{PART})(?:@([A-Za-z0-9][A-Za-z0-9._-]{{0,99}}))?(?:/({PART}\.(?:gguf|safetensors)))?")
DESCRIPTIONS = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"]  # configs, tokenizers, chat templates
WEIGHTS, OTHERS = "*.safetensors", "*.msgpack"
DOUBLES = ["original/*", "consolidated*", "onnx/*", "*.fp16.*", "*.non_ema.*"]  # the same weights in other ways


def is_name(source: str) -> bool:
    """Whether a source may be ``owner/model``, ``owner/model@revision``, or either with a file after it."""
    return NAME.fullmatch(source) is not None


def fetch(source: str, *, weights: bool = True) -> epath.Path:
    """The folder, or the file, of a model on the Hub, in the cache of its client; what is there is not fetched again.

    Args:
      source: ``owner/model``, perhaps ``@revision``, perhaps ``/FILE.gguf`` or ``/FILE.safetensors``.
      weights: fetch these too, and not only what tells what the model is.

    Raises:
      InputError: there is no such model, revision or file, its terms are not accepted, or it is not in the cache and
        the Hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    repository, revision, file = NAME.fullmatch(source).groups()
    try:
        if file is not None:
            return epath.Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        for endings in ([WEIGHTS], [OTHERS]) if weights else ([],):
            patterns = {"allow_patterns": DESCRIPTIONS + endings, "ignore_patterns": DOUBLES}
            folder = epath.Path(huggingface_hub.snapshot_download(repository, revision=revision, **patterns))
            if any([*folder.glob(ending), *folder.glob(f"*/{ending}")] for ending in endings):
                break
        return folder
    except (errors.HTTPError, OSError, ValueError) as error:  # the first of what carries requests
        raise _explain(source, error) from None


def _explain(source: str, error: Exception) -> InputError:
    from huggingface_hub import constants, errors

    start = f"source {source[:100]!r} is no path here and"
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{start} is gated on the Hugging Face Hub; accept its terms there and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"{start} no model of that name on the Hugging Face Hub (a private one needs HF_TOKEN)")
    if isinstance(error, errors.LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the Hugging Face Hub cannot be reached"
        return InputError(f"{start} not in the cache of the Hugging Face Hub, and {why}; a folder or a file is needed")
    if isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError):
        return InputError(f"{start} the Hugging Face Hub has the model, but no such revision or file")
    reason = " ".join(str(error).split())[:80] or type(error).__name__
    return InputError(f"{start} the Hugging Face Hub does not give it ({reason})")
