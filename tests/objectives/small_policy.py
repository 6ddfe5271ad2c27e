"""A causal model small enough that objectives, not networks, are what a test compiles; and batches for it."""

import jax
import jax.numpy as jnp
import numpy as np

ROWS, LENGTH, VOCAB, WIDTH = 6, 7, 11, 4


class SmallPolicy:
    """Each position sees the mean of the tokens before it in its own segment; the calls are those of a decoder."""

    def apply(self, variables, x, positions=None, segment_ids=None, method="__call__"):
        params = variables["params"]
        if method == "unembed":
            return x @ params["out"]
        if method == "value":
            return x @ params["value"]
        if method == "features":
            return self._hidden(params, x, segment_ids), {}, None
        return self._hidden(params, x, segment_ids) @ params["value"]

    def _hidden(self, params, tokens, segment_ids):
        segments = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        seen = jnp.tril(jnp.ones((tokens.shape[1],) * 2)) * (segments[:, :, None] == segments[:, None])
        seen = seen * (segments > 0)[:, None]
        seen = seen / jnp.maximum(jnp.sum(seen, axis=-1, keepdims=True), 1)
        embedded = params["embed"][tokens]
        return jnp.tanh(embedded + jnp.einsum("bts,bsd->btd", seen, embedded))


POLICY = SmallPolicy()


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"embed": (VOCAB, WIDTH), "out": (WIDTH, VOCAB), "value": (WIDTH,)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def completions(seed, rows=ROWS, prefix=""):
    """Prompts and completions of uneven lengths, padded on the right."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (rows, LENGTH + 1)).astype(np.int32)
    place, lengths = np.arange(LENGTH), rng.integers(4, LENGTH + 1, rows)[:, None]
    fields = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": ((place >= rng.integers(1, 3, (rows, 1))) & (place < lengths)).astype(np.float32),
        "segment_ids": (place < lengths).astype(np.int32),
    }
    return {prefix + name: jnp.asarray(value) for name, value in fields.items()}


def ids(rows=ROWS):
    return {"example_id": jnp.arange(20, 20 + rows, dtype=jnp.int32)}


def pairs():
    """A batch of pairs whose weights differ; one does not count."""
    weights = {"weights": jnp.asarray([0.5, 1, 2, 0, 1.5, 0.25])}
    return completions(1, prefix="chosen_") | completions(2, prefix="rejected_") | weights | ids()


def drawn(by_token=False):
    """A batch of completions with advantages, and log-probs of the policy that drew them and of a reference."""
    rng, fields = np.random.default_rng(3), completions(4)
    shape = fields["weights"].shape
    fields["weights"] = fields["weights"].at[2].set(0)  # a row that does not count
    numbers = {"old_log_probs": -2.4 + 0.3 * rng.normal(size=shape), "values": rng.normal(size=shape)}
    numbers |= {"reference_log_probs": -2.4 + 0.3 * rng.normal(size=shape), "returns": rng.normal(size=shape)}
    numbers["advantages"] = rng.normal(size=shape if by_token else shape[0])
    return fields | {name: jnp.asarray(value) for name, value in numbers.items()} | ids()


def numpy_log_probs(tree, fields):
    """Token by token in NumPy: what `token_log_probs` of the small policy should be."""
    tree = {name: np.asarray(value, np.float64) for name, value in tree.items()}
    found = np.zeros(fields["inputs"].shape)
    for b, (inputs, targets) in enumerate(
        zip(np.asarray(fields["inputs"]), np.asarray(fields["targets"]), strict=True)
    ):
        segments = np.asarray(fields["segment_ids"][b])
        for t in range(len(inputs)):
            before = [s for s in range(t + 1) if segments[s] == segments[t] and segments[t] > 0]
            mean = tree["embed"][inputs[before]].mean(axis=0) if before else 0
            logits = np.tanh(tree["embed"][inputs[t]] + mean) @ tree["out"]
            found[b, t] = logits[targets[t]] - np.log(np.exp(logits).sum())
    return found


def split_apart(objective, tree, frozen, batch):
    """How far the gradient of microbatches of one row is from that of the whole batch, relative to it."""
    from fmzoo.train import gradients

    key = jax.random.key(0)
    whole, split = (
        jax.jit(gradients(objective, microbatches=n))(tree, frozen, batch, key).grads
        for n in (1, len(batch["example_id"]))
    )
    distance = sum(float(jnp.sum((whole[name] - split[name]) ** 2)) for name in whole)
    return (distance / sum(float(jnp.sum(leaf**2)) for leaf in whole.values())) ** 0.5


def terms_of(objective, tree, frozen, batch, statistics=None):
    """The terms and metrics, divided."""
    from fmzoo.objectives import divide

    run = jax.jit(lambda tree, batch: objective(tree, frozen, batch, jax.random.key(0), statistics))
    terms, metrics = run(tree, batch)
    return {name: float(divide(mean)) for name, mean in {**terms, **metrics}.items()}
