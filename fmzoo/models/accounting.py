"""What a decoder costs: parameters, floating-point operations and cache, from its config alone."""

from fmzoo.models.config import DecoderConfig


def parameter_count(config: DecoderConfig) -> int:
    """How many numbers `Decoder.init` would make; nothing is allocated."""
    c, norm = config, _norm(config, config.d_model)
    width = c.embed_dim or c.d_model
    total = c.vocab_size * width * (1 if c.tied_head else 2) + (c.vocab_size if c.head_bias else 0)
    total += 0 if c.embed_dim is None else 2 * width * c.d_model
    total += (c.final_norm + c.embed_norm) * norm
    total += (c.context_length + c.position_offset) * c.d_model if c.position == "learned" else 0
    return total + c.num_layers * (_attention(c) + _mlp(c) + _norms_in_block(c) * norm)


def matmul_parameters(config: DecoderConfig) -> int:
    """Parameters that each token is multiplied by: all kernels, projections of embeddings, the head, tied or not."""
    a, m, d = config.attention, config.mlp, config.d_model
    attention = d * a.head_dim * (2 * a.num_heads + 2 * a.num_kv_heads)
    return config.num_layers * (attention + d * m.d_ff * (3 if m.gated else 2)) + _head(config)


def flops_per_token(config: DecoderConfig, length: int, *, training: bool = True) -> float:
    """Floating-point operations for a token of a sequence of ``length``: ``6 M + 12 * sum over layers of N H * seen``.

    M is `matmul_parameters`; ``seen`` is the mean number of keys that a query attends to, ``(length + 1) / 2`` for a
    global layer (causal, so about half) and less within a window. Scores and values take ``2 N H`` multiply-adds a key.
    The backward pass takes twice the forward (arXiv 2001.08361, section 2.1; 2204.02311, appendix B). Without
    ``training`` it is the forward pass, a third. Recomputation by remat is not counted.
    """
    a, seen = config.attention, 0.0
    for kind in config.kinds:
        window = min(a.window if kind == "local" and a.window else length, length)
        seen += window * (window + 1) / 2 / length + window * (length - window) / length
    forward = 2 * matmul_parameters(config) + 4 * a.num_heads * a.head_dim * seen
    return forward * (3 if training else 1)


def _head(c: DecoderConfig) -> int:
    if c.embed_dim is None:
        return c.vocab_size * c.d_model
    return c.embed_dim * (c.vocab_size + 2 * c.d_model)


def _attention(c: DecoderConfig) -> int:
    a = c.attention
    q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    kernels = c.d_model * (2 * q + 2 * kv)
    biases = (q + 2 * kv if a.qkv_bias else 0) + (c.d_model if a.out_bias else 0)
    norms = {"none": 0, "head": 2 * _norm(c, a.head_dim), "all": _norm(c, q) + _norm(c, kv)}[a.qk_norm]
    return kernels + biases + norms


def _mlp(c: DecoderConfig) -> int:
    m, parts = c.mlp, 3 if c.mlp.gated else 2
    return parts * c.d_model * m.d_ff + ((parts - 1) * m.d_ff + c.d_model if m.bias else 0)


def _norm(c: DecoderConfig, width: int) -> int:
    return width * (2 if c.norm.bias else 1)


def _norms_in_block(c: DecoderConfig) -> int:
    inner = 2 if c.norm.placement == "both" else 1
    before = 1 if c.norm.placement in ("pre", "both") else 0
    return 2 * inner - (before if c.block == "parallel_shared_norm" else 0)
