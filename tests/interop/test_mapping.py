"""The mapping table: both directions, layers in prefix, period and tail, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.errors import InputError
from fmzoo.interop import AS_IS, TRANSPOSED, Place, Row, Structure, Table, decoder_structure, joined, to_ours, to_theirs
from fmzoo.models import AttentionConfig, Decoder, DecoderConfig, MlpConfig

TABLE = Table(
    rows=(
        Row("embed", "wte"),
        Row(("layers/{i}/q", "layers/{i}/k"), "h.{i}.qk", joined(-1, TRANSPOSED)),
        Row("layers/{i}/bias", "h.{i}.b"),
        Row("layers/{i}/gate", "h.{i}.gate", TRANSPOSED),
        Row("head", "head", TRANSPOSED),
    ),
    renames=(("old.", ""),),
    ignored=("h.{i}.mask", "vision.*"),
    copies=(("head", "wte"),),
)
SHAPES = {
    "embed": (5, 3),
    "first/q": (3, 4),
    "first/k": (3, 2),
    "first/bias": (4,),
    "rest/q": (2, 3, 4),
    "rest/k": (2, 3, 2),
    "rest/bias": (2, 4),
}
STRUCTURE = Structure(SHAPES, {"layers": (Place("first"), Place("rest", 0), Place("rest", 1))})


def theirs(**changes):
    draw = np.random.default_rng(0).standard_normal
    tensors = {"wte": draw((5, 3))}
    for i in range(3):
        tensors |= {f"h.{i}.qk": draw((6, 3)), f"h.{i}.b": draw(4)}
    return {name: t for name, t in (tensors | changes).items() if t is not None}


def test_layers_are_put_where_they_are_stored():
    tensors = theirs()
    params = to_ours(TABLE, STRUCTURE, tensors, np.float64, place=lambda path, array: array)
    np.testing.assert_array_equal(params["first"]["q"], tensors["h.0.qk"][:4].T)
    np.testing.assert_array_equal(params["rest"]["q"][1], tensors["h.2.qk"][:4].T)
    np.testing.assert_array_equal(params["rest"]["k"][0], tensors["h.1.qk"][4:].T)
    np.testing.assert_array_equal(params["rest"]["bias"], np.stack([tensors["h.1.b"], tensors["h.2.b"]]))


def test_the_two_directions_are_inverse():
    tensors = theirs()
    params = to_ours(TABLE, STRUCTURE, tensors, np.float64, place=lambda path, array: array)
    back = to_theirs(TABLE, STRUCTURE, params)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)


def test_leaves_are_jax_arrays_of_the_dtype_asked_for():
    params = to_ours(TABLE, STRUCTURE, theirs(), jnp.bfloat16)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))


def test_a_placer_sees_each_leaf_once_with_its_path():
    seen = []
    to_ours(TABLE, STRUCTURE, theirs(), place=lambda path, array: seen.append((path, array.shape)))
    assert dict(seen) == SHAPES
    assert len(seen) == len(SHAPES)


def test_names_may_begin_otherwise_in_files_and_some_hold_nothing_of_ours():
    mask = np.ones((1, 1), np.uint8)
    tensors = {f"old.{name}": t for name, t in theirs(**{"h.1.mask": mask, "vision.tower.3": mask}).items()}
    params = to_ours(TABLE, STRUCTURE, tensors)
    np.testing.assert_array_equal(params["embed"], tensors["old.wte"].astype(np.float32))


def test_a_tied_head_may_be_stored_again_but_must_be_equal():
    tensors = theirs()
    to_ours(TABLE, STRUCTURE, tensors | {"head": tensors["wte"]})
    with pytest.raises(InputError, match="tensor head differs from wte; the config ties them"):
        to_ours(TABLE, STRUCTURE, tensors | {"head": tensors["wte"] + 1})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"h.1.b": None}, r"tensors are missing: h\.1\.b$"),
        ({"h.0.qk": None, "h.1.qk": None, "h.2.qk": None, "wte": None}, r"h\.0\.qk, h\.1\.qk, h\.2\.qk and 1 more$"),
        ({"h.3.b": np.ones(4)}, r"tensors are not expected by the config: h\.3\.b$"),
        ({"h.0.gate": np.ones((2, 2))}, r"tensors are not expected by the config: h\.0\.gate$"),
        ({"h.x.mask": np.ones(1)}, r"not expected by the config: h\.x\.mask$"),
        ({"h.2.qk": np.ones((3, 6))}, r"tensor h\.2\.qk has shape \(3, 6\); \(6, 3\) is needed$"),
        ({"wte": np.ones((5, 3), np.int8)}, r"tensor wte holds int8; floating-point numbers are needed$"),
        ({"old.wte": np.ones((5, 3))}, r"two tensors stand for 'wte'; one is needed$"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        to_ours(TABLE, STRUCTURE, theirs(**changes))


def test_a_parameter_that_no_row_gives_is_named():
    structure = Structure(SHAPES | {"norm/scale": (3,)}, STRUCTURE.stacks)
    with pytest.raises(InputError, match="no row of the mapping gives the parameters norm/scale$"):
        to_ours(TABLE, structure, theirs())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"embed": np.ones((4, 3))}, r"parameter embed has shape \(4, 3\); an array of shape \(5, 3\) is needed"),
        ({"embed": object()}, r"parameter embed is a object; an array of shape \(5, 3\) is needed"),
        ({"more": np.ones(1)}, r"parameter more has shape \(1,\); an array of shape None is needed"),
    ],
)
def test_parameters_that_do_not_fit_are_named(change, sentence):
    params = to_ours(TABLE, STRUCTURE, theirs())
    with pytest.raises(InputError, match=sentence):
        to_theirs(TABLE, STRUCTURE, params | change)


def test_the_structure_of_a_decoder_counts_its_layers_in_order():
    config = DecoderConfig(
        vocab_size=11,
        d_model=8,
        num_layers=8,
        attention=AttentionConfig(2, 1, 4, window=3),
        mlp=MlpConfig(d_ff=6),
        prefix=("global", "local"),
        pattern=("local", "global"),
        tied_head=True,
    )
    structure = decoder_structure(config)
    layers = structure.stacks["layers"]
    assert len(layers) == config.num_layers
    assert layers[1:5] == [Place("prefix/1"), Place("period/0", 0), Place("period/1", 0), Place("period/0", 1)]
    assert structure.shape(Place("period/0/mlp/up/kernel", 2)) == (8, 6)
    params = jax.jit(Decoder(config).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    flat = {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    assert flat == structure.shapes


def test_as_is_is_the_identity():
    assert AS_IS.to_ours([1], [()]) == AS_IS.to_theirs([1]) == [1]
