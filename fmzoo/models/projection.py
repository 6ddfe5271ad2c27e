"""Weights are read through `project`: a kernel is an array, or a node that knows how to multiply."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from fmzoo.errors import InputError

Array = jax.Array


@runtime_checkable
class Node(Protocol):
    """A weight that is not one array: LoRA here; quantised forms are nodes too. A node is a JAX pytree."""

    def project(self, x: Array) -> Array:
        """``x [..., D]`` times the weight ``[D, F]``."""


class Lora(struct.PyTreeNode):
    """A frozen kernel and a low-rank change of it (arXiv 2106.09685, eq. 3): ``x W + (x A) B * scale``.

    The product ``A B`` is never formed, so neither a merged kernel nor a full gradient exists.

    Attributes:
      kernel: the frozen weight ``[..., D, F]``, itself an array or a node.
      a: ``[..., D, r]``.
      b: ``[..., r, F]``.
      scale: ``alpha / r``, or ``alpha / sqrt(r)`` for rank-stabilised LoRA (arXiv 2312.03732).
    """

    kernel: Any
    a: Array
    b: Array
    scale: float = struct.field(pytree_node=False, default=1.0)

    def project(self, x: Array) -> Array:
        """``x [..., D]`` to ``[..., F]``."""
        low = project(project(x, self.a), self.b)
        return project(x, jax.lax.stop_gradient(self.kernel)) + low * jnp.asarray(self.scale, x.dtype)


def project(x: Array, kernel: Array | Node, dtype: jnp.dtype | None = None) -> Array:
    """``x [..., D]`` times a kernel ``[D, F]`` in the dtype of ``x``; the result is in ``dtype``, else in that too."""
    if isinstance(kernel, Node):
        return kernel.project(x).astype(dtype or x.dtype)
    return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=dtype)


def as_array(kernel: Array | Node) -> Array:
    """A kernel as the array ``[..., D, F]`` that it stands for: a node's own, or made for this call."""
    if isinstance(kernel, Lora):
        low = jnp.matmul(kernel.a, kernel.b) * kernel.scale
        return jax.lax.stop_gradient(as_array(kernel.kernel)) + low
    return kernel.dequantize() if isinstance(kernel, Node) else kernel


@jax.custom_vjp
def project_transposing(x: Array, kernel: Array) -> Array:
    """``x [..., D]`` times ``[D, F]``, whose gradient of the kernel multiplies a transposed copy of ``x``.

    XLA on CPU gives a product that contracts rows to a slower library than one that contracts columns; the copy costs
    less than that. There is no forward mode (`jax.jvp`).
    """
    return jnp.matmul(x, kernel)


def _project_keeping(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.matmul(x, kernel), (x, kernel)


def _gradients_transposing(kept: tuple[Array, Array], grads: Array) -> tuple[Array, Array]:
    x, kernel = kept
    # Without the barrier the transpose is folded into the product.
    columns = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    return jnp.matmul(grads, kernel.T), jnp.matmul(columns, grads.reshape(-1, grads.shape[-1]))


project_transposing.defvjp(_project_keeping, _gradients_transposing)


def read(module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]) -> Any:
    """A parameter of a Linen module, made in float32 by ``init`` if it is not there; a node passes through as it is.

    Raises:
      InputError: the parameter has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    if not isinstance(value, Node) and value.shape != shape:
        path = "/".join((*module.path, name))
        raise InputError(f"parameter {path} has shape {value.shape}; the config needs {shape}")
    return value


class Affine(NamedTuple):
    """A kernel ``[D, F]`` and a bias ``[F]`` or None; ``transposing`` is that of `Weights`."""

    kernel: Any
    bias: Array | None
    transposing: bool = False

    def __call__(self, x: Array) -> Array:
        """``x [..., D]`` to ``[..., F]`` in the dtype of ``x``."""
        if self.transposing and not isinstance(self.kernel, Node):
            y = project_transposing(x, self.kernel.astype(x.dtype))
        else:
            y = project(x, self.kernel)
        return y if self.bias is None else y + self.bias.astype(y.dtype)


class Weights(nn.Module):
    """The parameters ``kernel`` and, if asked for, ``bias`` of a projection to ``features``.

    With ``transposing`` an array is multiplied by `project_transposing`.
    """

    features: int
    use_bias: bool = False
    init_scale: float = 1.0
    transposing: bool = False

    @nn.compact
    def __call__(self, inputs: int) -> Affine:
        """The projection of ``inputs`` features; calling it on ``x`` applies it."""
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = read(self, "kernel", init, (inputs, self.features))
        bias = read(self, "bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return Affine(kernel, bias, self.transposing)


def project_by_name(
    module: nn.Module, x: Array, features: dict[str, int], *, use_bias: bool, transposing: bool
) -> tuple[Array, ...]:
    """Several projections of one ``x``, by parameters of a module; one product of `fmzoo.models.join_projections`.

    Args:
      module: the one that calls, whose parameters they are.
      x: ``[..., D]``.
      features: of each projection, by the name of its parameters.
      use_bias: in all of them.
      transposing: as in `Weights`.
    """
    joined = "_".join(features)
    if module.has_variable("params", joined):
        y = Weights(sum(features.values()), use_bias, name=joined)(x.shape[-1])(x)
        return tuple(jnp.split(y, np.cumsum(list(features.values()))[:-1].tolist(), axis=-1))
    named = {name: Weights(size, use_bias, 1.0, transposing, name=name) for name, size in features.items()}
    return tuple(weights(x.shape[-1])(x) for weights in named.values())
