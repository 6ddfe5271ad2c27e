"""Whether every family of the zoo keeps what every stage relies on, at a tiny size.

Claim: `fmzoo.evals.audit`, which is `fmzoo audit`, passes for every decoder of the zoo when its sizes are cut down and
its architecture is left as it is. Entries that are then the same are audited once.

    python experiments/audit_families.py

Hardware: one CPU core, about two minutes. Prints a table; exit 1 if a check fails.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp

from fmzoo import evals, models, zoo
from fmzoo.models import DecoderConfig, RopeConfig

LENGTH, CONTEXT, PRETRAINED = 16, 24, 10  # of two documents, of the model, and of one whose positions are stretched
WINDOW = 5


def shrink(config: DecoderConfig) -> DecoderConfig:
    """The same architecture with small sizes: every kind of layer once, two of them at least."""
    a = config.attention
    pattern, prefix = (tuple(dict.fromkeys(kinds)) for kinds in (config.pattern, config.prefix))
    groups = 1 if a.num_kv_heads == 1 else 2
    experts = config.experts and dataclasses.replace(
        config.experts, num_experts=4, top_k=min(config.experts.top_k, 2), d_ff=8, groups=min(config.experts.groups, 2),
        top_groups=1, shared_d_ff=min(config.experts.shared_d_ff, 6), dense_layers=min(config.dense_layers, 1),
    )  # fmt: skip
    latent = a.latent and dataclasses.replace(
        a.latent, kv_rank=6, q_rank=a.latent.q_rank and 5, rope_dim=4, value_dim=6
    )
    attention = dataclasses.replace(
        a, num_heads=2 if a.num_kv_heads == a.num_heads else 2 * groups, num_kv_heads=groups,
        head_dim=10 if latent else 12, scale=a.scale and 0.3, window=a.window and WINDOW, latent=latent, dropout=0.0,
    )  # fmt: skip
    return dataclasses.replace(
        config, vocab_size=48, d_model=24, num_layers=max(2, len(prefix) + len(pattern)), context_length=CONTEXT,
        attention=attention, mlp=dataclasses.replace(config.mlp, d_ff=16), experts=experts, prefix=prefix,
        pattern=pattern, rope=_shorten(config.rope), local_rope=config.local_rope and _shorten(config.local_rope),
        norm=dataclasses.replace(config.norm, epsilon=1e-5), embed_dim=config.embed_dim and 12,
        dropout=0.0, dtype="float32",
    )  # fmt: skip


def _shorten(rope: RopeConfig) -> RopeConfig:
    """Half or all of a head's 12 dimensions turn."""
    fraction = 1.0 if rope.fraction == 1 else 0.5
    turned = int(6 * fraction)
    factors = {name: getattr(rope, name)[:turned] for name in ("short_factors", "long_factors")}
    return dataclasses.replace(rope, theta=1e4, fraction=fraction, original_context=PRETRAINED, **factors)


def families() -> dict[DecoderConfig, list[str]]:
    """The names of the zoo by what they are when small."""
    found: dict[DecoderConfig, list[str]] = {}
    for name in zoo.names():
        found.setdefault(shrink(zoo.entry(name).config()), []).append(name)
    return found


def audit(config: DecoderConfig) -> list[evals.Check]:
    """The checks of a config with random weights, large enough that scores and logits vary."""
    module = models.Decoder(config)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 1), int))["params"]
    tokens = jax.random.randint(jax.random.key(1), (2, LENGTH), 0, config.vocab_size)
    return evals.audit(module, jax.tree.map(lambda leaf: 3 * leaf, params), tokens)


def main() -> int:
    """Prints a line for each architecture."""
    failed = 0
    for config, names in families().items():
        checks = audit(config)
        wrong = [f"{check.name}: {check.error:.1e}" for check in checks if not check.passed]
        failed += bool(wrong)
        worst = max(check.error for check in checks)
        print("FAIL" if wrong else "pass", f"{worst:.1e}", ", ".join(names), *wrong, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
