"""The networks that judge generated pictures, trained on the spot on real ones by the ordinary step."""

from typing import Any

import jax
import numpy as np

from fmzoo.data import Framing, ImageIterator
from fmzoo.data.pictures import Pictures
from fmzoo.errors import InputError
from fmzoo.models import Pretrained
from fmzoo.models.feature_networks import Classifier, ClassifierConfig, ImageEncoderConfig, ImageText, ImageTextConfig
from fmzoo.objectives import Objective, ObjectiveFn
from fmzoo.objectives.classification import classification
from fmzoo.objectives.contrastive import contrastive
from fmzoo.text.hashed_words import hash_words
from fmzoo.train import OptimizerConfig, gradients, init_state, make_optimizer, update

OPTIMIZER = OptimizerConfig(learning_rate=2e-3, warmup_steps=20, final_fraction=0.01, weight_decay=0.05, b2=0.98)


def train_classifier(
    pictures: Pictures,
    framing: Framing,
    *,
    features: int = 64,
    widths: tuple[int, ...] = (32, 64),
    steps: int = 300,
    batch_size: int = 128,
    seed: int = 0,
) -> Pretrained:
    """A `Classifier` of labelled pictures; its features, 64 or as many as asked for, are what distances compare.

    Args:
      pictures: with classes, as `fmzoo.data.images` gives them.
      framing: the size of the images.
      features: F.
      widths: of the convolutions.
      steps: updates; 300 on the digits take seconds.
      batch_size: B.
      seed: of initial parameters and of the order.

    Raises:
      InputError: the pictures have no classes, or a number is out of range.
    """
    image = ImageEncoderConfig(framing.height, framing.width, framing.channels, widths, features)
    module = Classifier(ClassifierConfig(image, max(1, len(pictures.classes))))
    batches = ImageIterator(pictures, framing, batch_size=batch_size, seed=seed, fields=("label",))
    params = module.init(jax.random.key(seed), _blank(framing))["params"]
    return Pretrained(module, _train(classification(module), params, batches, steps, seed), module.config)


def train_image_text(
    pictures: Pictures,
    framing: Framing,
    *,
    features: int = 64,
    widths: tuple[int, ...] = (32, 64, 128),
    steps: int = 600,
    batch_size: int = 256,
    seed: int = 0,
) -> Pretrained:
    """An `ImageText` pair of encoders of captioned pictures, by in-batch contrast; arguments as `train_classifier`."""
    image = ImageEncoderConfig(framing.height, framing.width, framing.channels, widths, features)
    module = ImageText(ImageTextConfig(image))
    batches = ImageIterator(pictures, framing, batch_size=batch_size, seed=seed, tokenize=hash_words)
    params = module.init(jax.random.key(seed), _blank(framing), hash_words("")[None])["params"]
    return Pretrained(module, _train(contrastive(module), params, batches, steps, seed), module.config)


def gather(pictures: Pictures, framing: Framing, limit: int | None = None) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The first pictures of a set, centred: images ``uint8[N, H, W, C]``, captions, labels ``int32[N]``."""
    still = Framing(framing.height, framing.width, framing.channels)
    found = [pictures[index] for index in range(min(len(pictures), limit or len(pictures)))]
    images = np.stack([still.frame(picture.image, "").image for picture in found])
    return images, [picture.caption for picture in found], np.array([picture.label for picture in found], np.int32)


def _train(objective: Objective | ObjectiveFn, params: Any, batches: ImageIterator, steps: int, seed: int) -> Any:
    if steps < 1:
        raise InputError(f"steps are {steps}; at least 1 is needed")
    optimizer = make_optimizer(OPTIMIZER, steps)
    step = jax.jit(update(gradients(objective), optimizer), donate_argnums=0)
    state = init_state(params, optimizer, jax.random.key(seed))
    for _ in range(steps):
        state, _ = step(state, {}, next(batches))
    return state.params


def _blank(framing: Framing) -> np.ndarray:
    return np.zeros((1, framing.height, framing.width, framing.channels), np.float32)
