"""One batch, any split of it, and any number of devices give the same gradient, for every kind of objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmzoo import models, parallel, train
from fmzoo.objectives import Mean, Objective, divide
from fmzoo.train.gradients import gradients
from tests.train import probes
from tests.train.probes import PROBES, Probe


def distance(a, b):
    """The largest relative L2 distance of a leaf."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(np.max([np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-300) for x, y in pairs]))


def gradient(probe: Probe, microbatches=1, run=None, objective=None):
    """The gradient that a step sees, read off plain descent at rate 1."""
    compute = gradients(objective or probe.objective, probe.coefficients, microbatches=microbatches)
    step = train.update(compute, optax.sgd(1.0))
    state = train.init_state(probe.params, optax.sgd(1.0), jax.random.key(7))
    new, metrics = (run(step) if run else jax.jit(step))(state, probe.frozen, probe.batch)
    before, after = jax.device_get((probe.params, new.params))  # in NumPy, which compiles nothing for each shape
    return jax.tree.map(np.subtract, before, after), jax.device_get(metrics)


def fsdp(step):
    return parallel.compile(step, parallel.mesh("data=2,fsdp=4"))


def tensor(step):
    return parallel.compile(step, parallel.mesh("data=2,fsdp=2,tensor=2"), models.DECODER_RULES)


def split_experts(step):
    return parallel.compile(step, parallel.mesh("data=2,expert=4"), models.DECODER_RULES)


def smallest(monkeypatch):
    """Makes decoders that take half as long to compile, where larger ones would show nothing more of an objective."""
    monkeypatch.setattr(probes, "decoder", functools.partial(probes.decoder, **probes.SMALLEST))


@pytest.fixture
def small(monkeypatch):
    smallest(monkeypatch)


WAYS = {
    "4 microbatches": (4, None),
    "8 devices by compile": (1, fsdp),
    "8 devices by shard": (1, parallel.shard),
    "8 devices by pmap": (1, parallel.pmap),
    "2 microbatches on 4 devices by shard": (2, lambda step: parallel.shard(step, jax.devices()[:4])),
    "2 microbatches on 4 devices by pmap": (2, lambda step: parallel.pmap(step, jax.devices()[:4])),
    "2 microbatches on 8 devices by compile": (2, fsdp),
}


@pytest.mark.parametrize("name", PROBES)
def test_every_split_gives_one_gradient_in_float64(name, x64, monkeypatch):
    if name != "next_token":
        smallest(monkeypatch)
    probe = PROBES[name]()
    whole, metrics = gradient(probe)
    assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(whole))
    ways = dict(WAYS)
    if name not in ("next_token", "denoiser"):  # shard, mixed, takes the same sums
        del ways["2 microbatches on 4 devices by pmap"]
    if name == "experts":  # takes longest to compile; a mixture of ways and pmap take the sums that the others take
        ways = {way: WAYS[way] for way in ("4 microbatches", "8 devices by shard")}
        ways["experts on 4 devices each by compile"] = (1, split_experts)
    for way, (microbatches, run) in ways.items():
        split, split_metrics = gradient(probe, microbatches, run)
        assert distance(split, whole) < 1e-9, way
        assert split_metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-9), way


@pytest.mark.parametrize("name", [name for name in PROBES if name != "experts"])  # a choice may fall otherwise there
def test_every_split_gives_one_gradient_in_float32(name, small):
    probe = PROBES[name]()
    whole, _ = gradient(probe)
    compiled = ["2 microbatches on 8 devices by compile"] if name == "next_token" else []
    for way in ["2 microbatches on 4 devices by shard", *compiled]:
        assert distance(gradient(probe, *WAYS[way])[0], whole) < 1e-5, way


def test_parameters_split_by_the_rules_give_the_same_gradient(x64):
    module = models.Decoder(models.DecoderConfig(
        vocab_size=32, d_model=16, num_layers=2, context_length=12, dropout=0.1, dtype="float64",
        attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8), mlp=models.MlpConfig(d_ff=24),
    ))  # fmt: skip
    from fmzoo.objectives import next_token
    from tests.train.probes import params_of, text_batch

    probe = Probe(next_token(module), params_of(module), {}, text_batch())
    whole, _ = gradient(probe)
    for microbatches in (1, 2):
        assert distance(gradient(probe, microbatches, tensor)[0], whole) < 1e-9


def mean_of_means(objective):
    """The field's favourite error: divides within each part."""

    def wrong(params, frozen, batch, rng, statistics=None):
        terms, metrics = objective(params, frozen, batch, rng, statistics)
        return {k: Mean(t.total / t.weight, jnp.ones_like(t.weight)) for k, t in terms.items()}, metrics

    return wrong


def noise_by_place(objective):
    """Keys each example by its row in the part instead of its number."""

    def wrong(params, frozen, batch, rng, statistics=None):
        places = jnp.arange(len(batch["example_id"]), dtype=jnp.int32)
        return objective(params, frozen, batch | {"example_id": places}, rng, statistics)

    return wrong


def statistics_by_part(objective):
    """Prepares its statistic from the part that it sees."""

    def wrong(params, frozen, batch, rng, statistics=None):
        means = objective.prepare(params, frozen, batch, rng)
        own = {k: jax.lax.stop_gradient(divide(m)) for k, m in means.items()}
        return objective.terms(params, frozen, batch, rng, own)

    return wrong


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("next_token", mean_of_means),
        ("next_token", noise_by_place),
        ("denoiser", mean_of_means),
        ("denoiser", noise_by_place),
        ("two_terms", mean_of_means),
        ("preference", mean_of_means),
        ("prepared", statistics_by_part),
        ("experts", statistics_by_part),
        ("low_rank", noise_by_place),
    ],
)
def test_a_planted_error_is_seen(name, plant, x64, small):
    probe = PROBES[name]()
    if name == "two_terms":  # its row term has parts of weight 0, where a mean of means is not even a number
        probe = probe._replace(batch=probe.batch | {"row_weights": jnp.linspace(0.1, 1, 8)})
    whole, _ = gradient(probe, objective=plant(probe.objective))
    alone = list(WAYS)[:4]  # a mixture of two ways goes wrong as either does
    for way in alone if (name, plant) == ("denoiser", noise_by_place) else ("4 microbatches",):
        microbatches, run = WAYS[way]
        spoilt = distance(gradient(probe, microbatches, run, plant(probe.objective))[0], whole)
        if way == "8 devices by compile":  # one program over the whole batch: there is no part to go wrong on
            assert spoilt < 1e-9
        else:
            assert spoilt > 1e-3, way


@pytest.mark.parametrize("name", PROBES)
def test_weights_do_not_depend_on_the_parameters(name, small):
    probe = PROBES[name]()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), probe.params)
    objective = probe.objective
    statistics = None
    if isinstance(objective, Objective) and objective.prepare:
        means = jax.eval_shape(objective.prepare, probe.params, probe.frozen, probe.batch, jax.random.key(0))
        statistics = {name: jnp.zeros(mean.total.shape) for name, mean in means.items()}

    @jax.jit
    def weights(params):
        terms, _ = objective(params, probe.frozen, probe.batch, jax.random.key(0), statistics)
        return [term.weight for term in terms.values()]

    np.testing.assert_array_equal(weights(probe.params), weights(broken))


def test_the_pass_for_the_weights_costs_no_forward_pass(small):
    """The compiled step has the floating-point operations of one forward and one backward pass, not of two forwards."""
    probe = PROBES["next_token"]()
    key = jax.random.key(0)
    compute = gradients(probe.objective)
    plain = jax.grad(lambda p: probe.objective(p, {}, probe.batch, key)[0]["loss"].total)
    flops = [
        jax.jit(f).lower(probe.params).compile().cost_analysis()["flops"]
        for f in (lambda p: compute(p, {}, probe.batch, key).grads, plain)
    ]
    assert flops[0] < 1.02 * flops[1]
