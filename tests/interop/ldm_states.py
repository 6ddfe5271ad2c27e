"""State dicts as latent-diffusion's and SGM's modules register their parameters, with random values."""

import numpy as np

Shapes = dict[str, tuple[int, ...]]


def layer(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def residual(name: str, inputs: int, outputs: int, time: int) -> Shapes:
    shapes = {
        **layer(f"{name}.in_layers.0", inputs),
        **layer(f"{name}.in_layers.2", outputs, inputs, 3, 3),
        **layer(f"{name}.emb_layers.1", outputs, time),
        **layer(f"{name}.out_layers.0", outputs),
        **layer(f"{name}.out_layers.3", outputs, outputs, 3, 3),
    }
    return shapes | (layer(f"{name}.skip_connection", outputs, inputs, 1, 1) if inputs != outputs else {})


def transformer(name: str, width: int, context: int, depth: int, linear: bool) -> Shapes:
    outer = (width, width) if linear else (width, width, 1, 1)
    shapes = layer(f"{name}.norm", width) | layer(f"{name}.proj_in", *outer) | layer(f"{name}.proj_out", *outer)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, seen in (("attn1", width), ("attn2", context)):
            shapes |= {f"{block}.{attention}.to_q.weight": (width, width)}
            shapes |= {f"{block}.{attention}.to_{x}.weight": (width, seen) for x in "kv"}
            shapes |= layer(f"{block}.{attention}.to_out.0", width, width)
        shapes |= layer(f"{block}.ff.net.0.proj", 8 * width, width) | layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= layer(f"{block}.{norm}", width)
    return shapes


def unet(
    channels: list[int], depths: list[int], mid: int, layers: int, context: int, linear: bool, added: int
) -> Shapes:
    time, first = 4 * channels[0], channels[0]
    shapes = layer("time_embed.0", time, first) | layer("time_embed.2", time, time)
    shapes |= layer("input_blocks.0.0", first, 4, 3, 3)
    if added:
        shapes |= layer("label_emb.0.0", time, added) | layer("label_emb.0.2", time, time)
    width, skips, block = first, [first], 1
    for level, (outputs, depth) in enumerate(zip(channels, depths, strict=True)):
        for _ in range(layers):
            shapes |= residual(f"input_blocks.{block}.0", width, outputs, time)
            shapes |= transformer(f"input_blocks.{block}.1", outputs, context, depth, linear) if depth else {}
            width = outputs
            skips.append(width)
            block += 1
        if level + 1 < len(channels):
            shapes |= layer(f"input_blocks.{block}.0.op", width, width, 3, 3)
            skips.append(width)
            block += 1
    shapes |= residual("middle_block.0", width, width, time) | residual("middle_block.2", width, width, time)
    shapes |= transformer("middle_block.1", width, context, mid, linear)
    block = 0
    for level in reversed(range(len(channels))):
        for i in range(layers + 1):
            shapes |= residual(f"output_blocks.{block}.0", width + skips.pop(), channels[level], time)
            width, depth = channels[level], depths[level]
            shapes |= transformer(f"output_blocks.{block}.1", width, context, depth, linear) if depth else {}
            if level and i == layers:
                shapes |= layer(f"output_blocks.{block}.{2 if depth else 1}.conv", width, width, 3, 3)
            block += 1
    return shapes | layer("out.0", width) | layer("out.2", 4, width, 3, 3)


def plain_residual(name: str, inputs: int, outputs: int) -> Shapes:
    shapes = layer(f"{name}.norm1", inputs) | layer(f"{name}.conv1", outputs, inputs, 3, 3)
    shapes |= layer(f"{name}.norm2", outputs) | layer(f"{name}.conv2", outputs, outputs, 3, 3)
    return shapes | (layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1) if inputs != outputs else {})


def middle(name: str, width: int) -> Shapes:
    shapes = plain_residual(f"{name}.block_1", width, width) | plain_residual(f"{name}.block_2", width, width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    return shapes | layer(f"{name}.attn_1.norm", width)


def autoencoder(channels: list[int], layers: int, latent: int = 4) -> Shapes:
    shapes = layer("encoder.conv_in", channels[0], 3, 3, 3)
    width = channels[0]
    for level, outputs in enumerate(channels):
        for i in range(layers):
            shapes |= plain_residual(f"encoder.down.{level}.block.{i}", width, outputs)
            width = outputs
        if level + 1 < len(channels):
            shapes |= layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    shapes |= middle("encoder.mid", width) | layer("encoder.norm_out", width)
    shapes |= layer("encoder.conv_out", 2 * latent, width, 3, 3) | layer("decoder.conv_in", width, latent, 3, 3)
    shapes |= middle("decoder.mid", width)
    for level in reversed(range(len(channels))):
        for i in range(layers + 1):
            shapes |= plain_residual(f"decoder.up.{level}.block.{i}", width, channels[level])
            width = channels[level]
        if level:
            shapes |= layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    shapes |= layer("decoder.norm_out", width) | layer("decoder.conv_out", 3, width, 3, 3)
    shapes |= layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    return shapes | layer("post_quant_conv", latent, latent, 1, 1)


def clip(width: int, layers: int, vocabulary: int = 50, length: int = 7) -> Shapes:
    shapes: Shapes = {"embeddings.token_embedding.weight": (vocabulary, width)}
    shapes |= {"embeddings.position_embedding.weight": (length, width)} | layer("final_layer_norm", width)
    for i in range(layers):
        block = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= layer(f"{block}.self_attn.{part}", width, width)
        shapes |= layer(f"{block}.mlp.fc1", 4 * width, width) | layer(f"{block}.mlp.fc2", width, 4 * width)
        shapes |= layer(f"{block}.layer_norm1", width) | layer(f"{block}.layer_norm2", width)
    return {f"text_model.{name}": shape for name, shape in shapes.items()}


def open_clip(width: int, layers: int, vocabulary: int = 50, length: int = 7) -> Shapes:
    shapes: Shapes = {"token_embedding.weight": (vocabulary, width), "positional_embedding": (length, width)}
    shapes |= {"text_projection": (width, width), "logit_scale": ()} | layer("ln_final", width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= layer(f"{block}.attn.out_proj", width, width) | layer(f"{block}.mlp.c_fc", 4 * width, width)
        shapes |= layer(f"{block}.mlp.c_proj", width, 4 * width)
        shapes |= layer(f"{block}.ln_1", width) | layer(f"{block}.ln_2", width)
    return shapes


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def state(version: str, rng: np.random.Generator, vocabulary: int = 50, length: int = 7) -> dict[str, np.ndarray]:
    """A tiny file of a version.

    2's text tower has 24 layers, since diffusers drops the one numbered 23; XL's two differ in width, by which it tells
    them apart.
    """
    xl = version.startswith("xl")
    depths, mid = ([0, 2], 2) if xl else ([1, 0], 1)
    added = {"xl": 128 + 6 * 256, "xl-refiner": 64 + 5 * 256}.get(version, 0)
    context = 64 + 128 if version == "xl" else 64
    shapes = _below("model.diffusion_model.", unet([32, 64], depths, mid, 1 + xl, context, version != "1", added))
    shapes |= _below("first_stage_model.", autoencoder([32, 64], 1))
    words = vocabulary, length
    shapes |= {
        "1": _below("cond_stage_model.transformer.", clip(64, 2, *words)),
        "2": _below("cond_stage_model.model.", open_clip(64, 24, *words)),
        "xl": _below("conditioner.embedders.0.transformer.", clip(64, 2, *words))
        | _below("conditioner.embedders.1.model.", open_clip(128, 2, *words)),
        "xl-refiner": _below("conditioner.embedders.0.model.", open_clip(64, 2, *words)),
    }[version]
    if not xl:
        shapes |= {"betas": (1000,), "sqrt_recipm1_alphas_cumprod": (1000,), "log_one_minus_alphas_cumprod": (1000,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
