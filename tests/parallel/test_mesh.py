"""Meshes by name, and batches that divide."""

import jax
import numpy as np
import pytest

from fmzoo import parallel
from fmzoo.errors import InputError


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (None, (8, 1, 1, 1)),
        ("fsdp=4,tensor=2", (1, 4, 2, 1)),
        ("data=2, fsdp=2, tensor=2", (2, 2, 2, 1)),
        ("data=-1,tensor=2", (4, 1, 2, 1)),
        ("data=2,expert=4", (2, 1, 1, 4)),
        ({"fsdp": -1}, (1, 8, 1, 1)),
    ],
)
def test_a_mesh_has_four_axes_of_the_sizes_named(sizes, shape):
    made = parallel.mesh(sizes)
    assert made.axis_names == ("data", "fsdp", "tensor", "expert")
    assert made.devices.shape == shape
    assert {d.id for d in made.devices.flat} == {d.id for d in jax.devices()}


def test_some_devices_are_enough():
    assert parallel.mesh("fsdp=2", jax.devices()[:2]).devices.size == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fdsp=4", "mesh has an axis 'fdsp'; the nearest are fsdp"),
        ("fsdp", "mesh axis fsdp is ''; a whole number is needed, as in fsdp=4,tensor=2"),
        ("fsdp=four", "mesh axis fsdp is 'four'"),
        ("fsdp=--4", "mesh axis fsdp is '--4'"),
        ("fsdp=²", "mesh axis fsdp is '²'"),
        ("fsdp=2,fsdp=4", "mesh 'fsdp=2,fsdp=4' names fsdp twice; each axis once is needed"),
    ],
)
def test_a_name_or_number_that_is_none_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parallel.parse_mesh(text)


@pytest.mark.parametrize("sizes", ["data=3,fsdp=2", "data=-1,fsdp=3", "data=0", "data=-2", "data=-1,fsdp=-1", {"x": 8}])
def test_sizes_that_do_not_fill_the_devices_are_refused(sizes):
    with pytest.raises(
        InputError, match=r"mesh .* does not fill 8 devices; sizes of \('data', 'fsdp', 'tensor', 'expert'\)"
    ):
        parallel.mesh(sizes)


def test_rows_are_spread_over_data_and_fsdp():
    batch = parallel.place_batch({"x": np.arange(24).reshape(8, 3)}, parallel.mesh("data=2,fsdp=2,tensor=2"))
    shards = batch["x"].addressable_shards
    assert {shard.data.shape for shard in shards} == {(2, 3)}
    np.testing.assert_array_equal(batch["x"], np.arange(24).reshape(8, 3))
    assert parallel.place_batch(batch, parallel.mesh("data=2,fsdp=2,tensor=2"))["x"] is batch["x"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (12, "batch of 12 rows is not divisible by 8 devices; a multiple such as 8 is needed"),
        (3, "batch of 3 rows is not divisible by 8 devices; a multiple such as 8 is needed"),
        (20, "batch of 20 rows is not divisible by 8 devices; a multiple such as 16 is needed"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_in_every_way_of_running(rows, words):
    batch = {"x": np.zeros((rows, 2))}
    step = lambda state, frozen, batch: (state, {})  # noqa: E731
    for run in (parallel.compile(step, parallel.mesh()), parallel.shard(step), parallel.pmap(step)):
        with pytest.raises(InputError, match=words):
            run({}, {}, batch)


def test_a_batch_that_does_not_divide_by_microbatches_is_refused():
    with pytest.raises(InputError, match="batch of 8 rows is not divisible by 3 microbatches; a multiple such as 6"):
        parallel.check_rows(8, 3, "microbatches")
    parallel.check_rows(8, 4, "microbatches")
