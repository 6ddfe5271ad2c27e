"""Features of pictures and captions from a feature network, a batch at a time."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from fmzoo.errors import InputError, require
from fmzoo.models import Pretrained
from fmzoo.text.hashed_words import hash_words


def image_features(network: Pretrained, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Features ``float32[N, F]`` of images ``[N, H, W, C]``: of a classifier its last hidden layer, of a pair of
    encoders the unit vectors that are compared with texts'.

    Args:
      network: a `Classifier` or `ImageText` with its parameters.
      images: ``uint8``, or floating in [-1, 1].
      batch_size: images run together.

    Raises:
      InputError: the images do not fit the network.
    """
    method = "encode_image" if hasattr(network.module, "encode_image") else "features"
    return _run(network, method, prepare_images(network, images), batch_size)


def predict_labels(network: Pretrained, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """The most probable class of images, ``int64[N]``; arguments as in `image_features`."""
    return _run(network, "__call__", prepare_images(network, images), batch_size).argmax(axis=1)


def text_features(network: Pretrained, captions: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
    """Unit vectors ``float32[N, F]`` of captions, by the text half of a pair of encoders.

    Raises:
      InputError: there is no caption.
    """
    if not len(captions):
        raise InputError("captions: there are none; at least one is needed")
    tokens = np.stack([hash_words(caption, rows=network.config.words) for caption in captions])
    return _run(network, "encode_text", tokens, batch_size)


def prepare_images(network: Pretrained, images: np.ndarray) -> np.ndarray:
    """Images as the network takes them, ``float32[N, H, W, C]`` in [-1, 1].

    Raises:
      InputError: they are of another size than the network's, or there is none.
    """
    c = network.config.image
    require("images", images, f"N {c.height} {c.width} {c.channels}")
    if not len(images):
        raise InputError("images: there are none; at least one is needed")
    return images.astype(np.float32) / np.float32(127.5) - 1 if images.dtype == np.uint8 else np.asarray(images)


def _run(network: Pretrained, method: str, rows: np.ndarray, batch_size: int) -> np.ndarray:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; at least 1 is needed")
    found, size = [], min(batch_size, len(rows))
    for at in range(0, len(rows), size):
        some = rows[at : at + size]
        padded = np.concatenate([some, np.repeat(some[-1:], size - len(some), axis=0)])
        found.append(np.asarray(_compiled(network.module, method)(network.params, padded))[: len(some)])
    return np.concatenate(found)


@functools.lru_cache(maxsize=16)
def _compiled(module: nn.Module, method: str) -> Callable[[Any, jax.Array], jax.Array]:
    return jax.jit(lambda params, rows: module.apply({"params": params}, rows, method=method))
