"""Latents encoded once: what an autoencoder says of every picture, kept in memory, given out in the pictures' order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmzoo import data
from fmzoo.models.autoencoder import AutoencoderConfig, AutoencoderKL


class Encoded(NamedTuple):
    """A set of pictures as a denoiser of latents needs it.

    Attributes:
      arrays: a row for each picture: ``mean float32[N, h, w, c]``, ``logvar`` if latents are drawn, and ``time_ids
        float32[N, 6]``.
      blanks: the pictures' captions and labels, their images left away.
    """

    arrays: dict[str, np.ndarray]
    blanks: "Blanks"


class Blanks(Sequence[data.Picture]):
    """Captions and labels of pictures, each with one black pixel."""

    def __init__(self, classes: tuple[str, ...]):
        self.classes, self._rows = classes, []

    def append(self, picture: data.Picture) -> None:
        """Adds what is said of a picture."""
        self._rows.append(picture._replace(image=np.zeros((1, 1, 1), np.uint8)))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> data.Picture:
        return self._rows[index]


def encode_pictures(
    config: AutoencoderConfig,
    params: Mapping[str, Any],
    pictures: Sequence[data.Picture],
    framing: data.Framing,
    batch_size: int,
    posterior: str = "sample",
) -> Encoded:
    """Encodes every picture once, on the devices of this process.

    The rows of a batch are encoded together, so memory is that of one training batch; what is kept takes ``8 h w c``
    bytes a picture, half of it where no latent is drawn.

    Args:
      config: of the autoencoder.
      params: of it.
      pictures: what `fmzoo.data.images` gives.
      framing: to the size that is encoded; centre crops without flips, the same in each epoch.
      batch_size: pictures encoded at a time.
      posterior: ``sample`` keeps the log-variance beside the mean.
    """
    devices = np.asarray(jax.local_devices())
    mesh = Mesh(devices, ("rows",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rows",), ()))
    size = -(-batch_size // devices.size) * devices.size
    params = jax.device_put(params, whole)
    encode = jax.jit(lambda params, image: AutoencoderKL(config).apply({"params": params}, image, method="encode"))
    kept, blanks = {"mean": [], "logvar": [], "time_ids": []}, Blanks(pictures.classes)
    for first in range(0, len(pictures), size):
        framed = []
        for index in range(first, min(first + size, len(pictures))):
            picture = pictures[index]
            blanks.append(picture)
            framed.append(framing.frame(picture.image, ""))
        image = np.zeros((size, framing.height, framing.width, framing.channels), np.float32)
        image[: len(framed)] = np.stack([one.image for one in framed]).astype(np.float32) / 127.5 - 1
        found = encode(params, jax.device_put(image, rows))
        for name, array in zip(("mean", "logvar"), jax.device_get(found), strict=True):
            kept[name].append(array[: len(framed)])
        kept["time_ids"].append(np.stack([one.time_ids for one in framed]))
    if posterior != "sample":
        del kept["logvar"]
    return Encoded({name: np.concatenate(arrays) for name, arrays in kept.items()}, blanks)


class CachedLatents:
    """Batches of an `ImageIterator` over the same pictures, ``mean`` and ``logvar`` in place of ``image``."""

    def __init__(self, make: Callable[..., data.ImageIterator], encoded: Encoded, fields: Sequence[str]):
        """Starts at the first batch.

        Args:
          make: an `ImageIterator` of pictures, framing and fields.
          encoded: the set.
          fields: what is given beside the latents, as for `ImageIterator`.
        """
        self._arrays = {name: rows for name, rows in encoded.arrays.items() if name != "time_ids" or name in fields}
        wanted = ["index", *(name for name in fields if name != "time_ids")]
        self._batches = make(encoded.blanks, data.Framing(1, 1, 1), fields=wanted)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        del batch["image"]
        index = batch.pop("index")
        return batch | {name: rows[index] for name, rows in self._arrays.items()}

    def get_state(self) -> dict[str, Any]:
        """The place after the last batch."""
        return self._batches.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a place."""
        self._batches.set_state(state)

    def close(self) -> None:
        """Stops the worker processes."""
        self._batches.close()

    def __enter__(self) -> "CachedLatents":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
