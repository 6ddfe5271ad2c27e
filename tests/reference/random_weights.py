"""Models of diffusers with random weights under which scores and gates vary by 1 or so, and what to hold them to."""

import json
import zlib

import numpy as np

TOLERANCE = 1e-4  # of the largest output, elementwise: two float32 implementations add in other orders


def randomise(model, name):
    """The model in evaluation, each kernel as wide as its input allows, norms about 1."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(0.3 * noise + (1 if "norm" in path and path.endswith("weight") else 0))
            else:
                scores = any(part in path for part in ("to_q", "to_k", "_q_proj", "_k_proj"))
                weight.copy_(noise * (2 if scores else 1) * weight[0].numel() ** -0.5)
    return model.eval()


def config_of(model):
    """What its config.json holds."""
    return json.loads(model.to_json_string())


def tensors_of(model):
    return {path: tensor.numpy() for path, tensor in model.state_dict().items()}


def distance(ours, theirs):
    """The largest difference, of the largest output of theirs; theirs are channels first."""
    theirs = np.moveaxis(theirs.numpy(), 1, -1)
    assert theirs.std() > 0.3
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def first(array):
    """Channels first, as torch takes them."""
    import torch

    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def same_weights(one, other):
    """Whether two dicts of arrays are equal bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def exchanged(params, one, other):
    """Parameters with two parts of one shape in each other's place: an error that no shape gives away."""
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict

    flat, taken = flatten_dict(params, sep="/"), {}
    for here, there in ((one, other), (other, one)):
        taken |= {there + path.removeprefix(here): leaf for path, leaf in flat.items() if path.startswith(f"{here}/")}
    assert taken
    assert all(flat[path].shape == leaf.shape for path, leaf in taken.items())
    return jax.tree.map(np.asarray, unflatten_dict(flat | taken, sep="/"))
