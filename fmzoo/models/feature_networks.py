"""Small networks that judge pictures: a classifier whose last hidden layer is a feature, and a pair of encoders."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmzoo.models.checks import check_positive
from fmzoo.models.convolution import Convolution
from fmzoo.models.norms import layer_norm
from fmzoo.models.projection import project, read

Array = jax.Array
EPSILON = 1e-5  # of norms


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig:
    """Convolutions that halve the image, all but the first, then one projection of all that is left."""

    height: int
    width: int
    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128)
    features: int = 64

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "height", "width", "channels", "widths", "features")


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """An image encoder and the classes that are told apart by its features."""

    image: ImageEncoderConfig
    classes: int

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "classes")


@dataclasses.dataclass(frozen=True)
class ImageTextConfig:
    """An image encoder and one of texts, a bag of words, into one space (arXiv 2103.00020)."""

    image: ImageEncoderConfig
    words: int = 8192  # rows of the table that words are hashed into, see `fmzoo.text.hash_words`
    hidden: int = 128
    initial_scale: float = 1 / 0.07
    largest_scale: float = 100.0

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_positive(self, "words", "hidden", "initial_scale", "largest_scale")


class Dense(nn.Module):
    """``x [..., D]`` times ``kernel [D, F]`` plus ``bias [F]``."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Gives ``[..., F]`` in the dtype of ``x``."""
        kernel = read(self, "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        bias = read(self, "bias", nn.initializers.zeros, (self.features,))
        return project(x, kernel) + bias.astype(x.dtype)


class ImageEncoder(nn.Module):
    """``[B, H, W, C]`` in [-1, 1] to features ``[B, F]``."""

    config: ImageEncoderConfig

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """Gives features before any non-linearity."""
        x = image
        for i, width in enumerate(self.config.widths):
            stride = 1 if i == 0 and self.config.height < 16 else 2
            x = jax.nn.silu(layer_norm(Convolution(width, stride=stride, name=f"conv_{i}")(x), EPSILON))
        return Dense(self.config.features, name="out")(x.reshape(x.shape[0], -1))


class Classifier(nn.Module):
    """Names what is in a picture; `method="features"` gives what Fréchet and other distances compare."""

    config: ClassifierConfig

    def setup(self) -> None:
        """Builds the encoder and the head."""
        self.image = ImageEncoder(self.config.image)
        self.head = Dense(self.config.classes)

    def __call__(self, image: Array) -> Array:
        """``[B, H, W, C]`` to logits ``[B, classes]``."""
        return self.head(self.features(image))

    def features(self, image: Array) -> Array:
        """``[B, H, W, C]`` to ``[B, F]``, the input of the last layer."""
        return jax.nn.silu(self.image(image))


class ImageText(nn.Module):
    """Two encoders into one space, where a picture and its caption point the same way."""

    config: ImageTextConfig

    def setup(self) -> None:
        """Builds both encoders and the temperature."""
        c = self.config
        self.image = ImageEncoder(c.image)
        self.embed = self.param("embed", nn.initializers.normal(1.0), (c.words, c.hidden))
        self.inner, self.out = Dense(c.hidden), Dense(c.image.features)
        self.log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(c.initial_scale)), ())

    def __call__(self, image: Array, tokens: Array) -> tuple[Array, Array, Array]:
        """Unit features of images and texts ``[B, F]``, and the scale of their products ``[]``."""
        scale = jnp.minimum(jnp.exp(self.log_scale), self.config.largest_scale)
        return self.encode_image(image), self.encode_text(tokens), scale

    def encode_image(self, image: Array) -> Array:
        """``[B, H, W, C]`` to unit vectors ``[B, F]``."""
        return _unit(self.image(image))

    def encode_text(self, tokens: Array) -> Array:
        """``int32[B, T]``, 0 for no word, to unit vectors ``[B, F]``."""
        there = (tokens > 0)[..., None]
        words = jnp.sum(jnp.where(there, self.embed[tokens], 0), axis=1)
        x = layer_norm(words, EPSILON)
        return _unit(self.out(x + jax.nn.silu(self.inner(x))))


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
