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
    total += c.num_layers * (_attention(c) + _norms_in_block(c) * norm) + _dense_layers(c) * _mlp(c)
    return total + _sparse_layers(c) * (0 if c.experts is None else _experts(c, c.experts.num_experts))


def active_parameter_count(config: DecoderConfig) -> int:
    """How many of the parameters take part in the computation of one token: of the experts, those that it goes to."""
    if config.experts is None:
        return parameter_count(config)
    idle = config.experts.num_experts - config.experts.top_k
    return parameter_count(config) - _sparse_layers(config) * idle * _kernels(config, config.experts.d_ff)


def matmul_parameters(config: DecoderConfig) -> int:
    """Parameters that each token is multiplied by: the kernels of attention, feed-forward and router, and the head.

    Of the experts only those count that a token goes to; projections of embeddings count, and the head, tied or not.
    """
    c = config
    dense = c.num_layers * _attention_kernels(c) + _dense_layers(c) * _kernels(c, c.mlp.d_ff) + _head(c)
    return dense + _sparse_layers(c) * (0 if c.experts is None else _expert_kernels(c, c.experts.top_k))


def flops_per_token(config: DecoderConfig, length: int, *, training: bool = True) -> float:
    """Floating-point operations for a token of a sequence of ``length``: ``6 M + 12 * sum over layers of N H * seen``.

    M is `matmul_parameters`; ``seen`` is the mean number of keys that a query attends to, ``(length + 1) / 2`` for a
    global layer (causal, so about half) and less within a window. Scores and values take ``2 N H`` multiply-adds a key,
    with latent attention, whose values have a width of their own, ``N (H + value_dim)``. The backward pass takes twice
    the forward (arXiv 2001.08361, section 2.1; 2204.02311, appendix B). Without ``training`` it is the forward pass, a
    third. Recomputation by remat is not counted.
    """
    a, seen = config.attention, 0.0
    for kind in config.kinds:
        window = min(a.window if kind == "local" and a.window else length, length)
        seen += window * (window + 1) / 2 / length + window * (length - window) / length
    value_dim = a.head_dim if a.latent is None else a.latent.value_dim
    forward = 2 * matmul_parameters(config) + 2 * a.num_heads * (a.head_dim + value_dim) * seen
    return forward * (3 if training else 1)


def _head(c: DecoderConfig) -> int:
    if c.embed_dim is None:
        return c.vocab_size * c.d_model
    return c.embed_dim * (c.vocab_size + 2 * c.d_model)


def _attention(c: DecoderConfig) -> int:
    a, kernels = c.attention, _attention_kernels(c)
    if a.latent is not None:
        narrow, rank = a.latent.kv_rank, a.latent.q_rank or 0
        biases = (rank + narrow + a.latent.rope_dim if a.qkv_bias else 0) + (c.d_model if a.out_bias else 0)
        return kernels + biases + narrow + rank
    q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    biases = (q + 2 * kv if a.qkv_bias else 0) + (c.d_model if a.out_bias else 0)
    norms = {"none": 0, "head": 2 * _norm(c, a.head_dim), "all": _norm(c, q) + _norm(c, kv)}[a.qk_norm]
    return kernels + biases + norms


def _attention_kernels(c: DecoderConfig) -> int:
    a, latent = c.attention, c.attention.latent
    if latent is None:
        return c.d_model * a.head_dim * (2 * a.num_heads + 2 * a.num_kv_heads)
    q, out = a.num_heads * a.head_dim, a.num_heads * latent.value_dim
    queries = c.d_model * q if latent.q_rank is None else latent.q_rank * (c.d_model + q)
    keys_and_values = latent.kv_rank * a.num_heads * (a.head_dim - latent.rope_dim + latent.value_dim)
    return queries + c.d_model * (latent.kv_rank + latent.rope_dim) + keys_and_values + out * c.d_model


def _mlp(c: DecoderConfig) -> int:
    m = c.mlp
    biases = (2 if m.gated else 1) * m.d_ff + c.d_model
    return _kernels(c, m.d_ff) + (biases if m.bias else 0)


def _kernels(c: DecoderConfig, d_ff: int) -> int:
    return (3 if c.mlp.gated else 2) * c.d_model * d_ff


def _experts(c: DecoderConfig, count: int) -> int:
    return _expert_kernels(c, count) + (c.experts.num_experts if c.experts.selection_bias else 0)


def _expert_kernels(c: DecoderConfig, count: int) -> int:
    """So many experts, the shared ones, and what chooses."""
    e = c.experts
    router = c.d_model * (e.num_experts + (1 if e.shared_gate else 0))
    return router + count * _kernels(c, e.d_ff) + _kernels(c, e.shared_d_ff)


def _dense_layers(c: DecoderConfig) -> int:
    return c.num_layers if c.experts is None else c.dense_layers


def _sparse_layers(c: DecoderConfig) -> int:
    return c.num_layers - _dense_layers(c)


def _norm(c: DecoderConfig, width: int) -> int:
    return width * (2 if c.norm.bias else 1)


def _norms_in_block(c: DecoderConfig) -> int:
    inner = 2 if c.norm.placement == "both" else 1
    before = 1 if c.norm.placement in ("pre", "both") else 0
    return 2 * inner - (before if c.block == "parallel_shared_norm" else 0)
