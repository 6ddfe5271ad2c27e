"""The U-Net beside diffusers on torch: a denoiser's step, a training step, 20 steps of sampling; ratios of medians.

    python benchmarks/diffusion.py forward train sample --rounds 5

Each side runs in a process of its own; the parent lets them work in turn (ours, theirs, ours, ...), so that both meet
the same machine, and prints one JSON object: medians in seconds, and ratios above 1 where ours is quicker. Needs the
`reference` extra. Float32, random weights, the same shapes on both sides: 18 million parameters, latents 32x32x4, batch
4, 77 tokens of width 256. Training is the squared error of the noise with AdamW; sampling is DDIM over Stable
Diffusion's schedule without guidance, ours one compiled scan, theirs diffusers' loop. ``--devices 2`` gives each of two
cores half of the rows, as a mesh of two devices; 1 leaves the cores to XLA's own threads.
"""

import argparse
import json
import os
import sys

from turns import in_turn, serve

CHANNELS, CONTEXT, TOKENS, SIZE, BATCH, STEPS = (64, 128, 256), 256, 77, 32, 4, 20
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


def batch():
    """Latents, noise, times and context, channels last."""
    import numpy as np

    rng = np.random.default_rng(0)
    latents, noise = rng.standard_normal((2, BATCH, SIZE, SIZE, 4)).astype(np.float32)
    context = rng.standard_normal((BATCH, TOKENS, CONTEXT)).astype(np.float32)
    return latents, noise, rng.integers(0, 1000, BATCH), context


def fmzoo_unet(**changes):
    import jax

    from fmzoo.models.unet import UNet
    from fmzoo.models.unet_config import UNetConfig

    config = UNetConfig(
        channels=CHANNELS, layers=(2, 2, 2), transformer_layers=(1, 1, 0), num_heads=(8, 8, 8), context_dim=CONTEXT,
        **{"attention": "rows", "transposed_inputs": True, **changes},
    )  # fmt: skip
    module = UNet(config)
    small = jax.numpy.zeros((1, 8, 8, 4)), jax.numpy.zeros(1), jax.numpy.zeros((1, 1, CONTEXT))
    return module, jax.jit(module.init)(jax.random.key(0), *small)["params"]


def repeated(function, params, rows):
    """Runs ``function(params, rows)``, compiled, as often as told; each device has its share of the rows."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((len(jax.devices()),), ("rows",))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(P(), P("rows")), out_specs=P("rows"), check_vma=False)
    compiled = jax.jit(mapped)
    params, rows = (jax.device_put(x, NamedSharding(mesh, p)) for x, p in ((params, P()), (rows, P("rows"))))

    def run(count):
        for _ in range(count):
            out = jax.block_until_ready(compiled(params, rows))
        return float(np.asarray(out)[0, 0, 0, 0])

    return run


def ours_forward(**changes):
    """One evaluation of the denoiser."""
    import numpy as np

    module, params = fmzoo_unet(**changes)
    latents, _, times, context = batch()

    def denoise(params, rows):
        return module.apply({"params": params}, *rows)

    return repeated(denoise, params, (latents, times.astype(np.float32), context))


def ours_train(**changes):
    """A step with AdamW, the state donated."""
    import jax
    import jax.numpy as jnp
    import optax

    from fmzoo import objectives, parallel, train
    from fmzoo.diffusion import Process, add_noise

    module, params = fmzoo_unet(**changes)
    latents, noise, times, context = batch()
    process, optimizer = Process(), optax.adamw(1e-4, weight_decay=1e-2)

    def objective(params, frozen, fields, rng, statistics=None):
        times = fields["times"].astype(jnp.float32)
        noisy = add_noise(process, fields["latents"], fields["noise"], times)
        error = module.apply({"params": params}, noisy, times, fields["context"]) - fields["noise"]
        return {"loss": objectives.Mean(jnp.sum(error**2), jnp.float32(error.size))}, {}

    step = parallel.shard(train.update(train.gradients(objective), optimizer))
    state = train.init_state(params, optimizer, jax.random.key(0), copy=False)
    fields = {"latents": latents, "noise": noise, "times": times, "context": context}

    def run(count):
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, {}, fields)
        return float(metrics["loss"])

    return run


def ours_sample(**changes):
    """DDIM in one scan by `fmzoo.diffusion.sample`."""
    import jax

    from fmzoo.diffusion import Process, sample

    module, params = fmzoo_unet(**changes)
    latents, _, _, context = batch()
    keys = jax.random.split(jax.random.key(0), BATCH)

    def draw(params, rows):
        latents, context, keys = rows

        def denoise(x, times):
            return module.apply({"params": params}, x, times, context)

        return sample(denoise, Process(), "ddim", STEPS, latents, keys)

    return repeated(draw, params, (latents, context, keys))


def diffusers_unet():
    import diffusers
    import torch

    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=SIZE, block_out_channels=CHANNELS, layers_per_block=2, cross_attention_dim=CONTEXT,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    latents, noise, times, context = (torch.from_numpy(x) for x in batch())
    return (
        torch,
        model,
        latents.permute(0, 3, 1, 2).contiguous(),
        noise.permute(0, 3, 1, 2).contiguous(),
        times,
        context,
    )


def torch_forward():
    """The same evaluation by diffusers on torch, eager."""
    torch, model, latents, _, times, context = diffusers_unet()
    model.eval()

    def run(count):
        with torch.inference_mode():
            for _ in range(count):
                out = model(latents, times, context).sample
        return float(out[0, 0, 0, 0])

    return run


def torch_train():
    """The same step by diffusers on torch, eager, with torch's fused AdamW."""
    import diffusers

    torch, model, latents, noise, times, context = diffusers_unet()
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", **BETAS)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-2, fused=True)

    def run(count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            noisy = scheduler.add_noise(latents, noise, times)
            loss = torch.nn.functional.mse_loss(model(noisy, times, context).sample, noise)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return run


def torch_sample():
    """Diffusers' scheduler in a Python loop."""
    import diffusers

    torch, model, latents, _, _, context = diffusers_unet()
    model.eval()
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS
    )

    def run(count):
        with torch.inference_mode():
            for _ in range(count):
                scheduler.set_timesteps(STEPS)
                x = latents
                for t in scheduler.timesteps:
                    x = scheduler.step(model(x, t, context).sample, t, x).prev_sample
        return float(x[0, 0, 0, 0])

    return run


WORKERS = {
    "fmzoo-forward": ours_forward,
    "fmzoo-train": ours_train,
    "fmzoo-sample": ours_sample,
    "torch-forward": torch_forward,
    "torch-train": torch_train,
    "torch-sample": torch_sample,
}
COUNTS = {"forward": 4, "train": 2, "sample": 1}
WARM = {"forward": 3, "train": 3, "sample": 1}


def use_devices(count):
    """One device a core, each with one thread: to be called before JAX starts."""
    if count > 1:
        flags = f"--xla_force_host_platform_device_count={count} --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = flags


def compare(what, rounds, devices):
    """Medians of both sides, and their ratio."""
    pairs = {side: (f"{side}-{what}", devices) for side in ("fmzoo", "torch")}
    found = in_turn(__file__, pairs, rounds, COUNTS[what])
    return {**{k: round(v, 4) for k, v in found.items()}, "ratio": round(found["torch"] / found["fmzoo"], 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps({what: compare(what, given.rounds, given.devices) for what in given.what}, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        use_devices(int(sys.argv[3]))
        serve(WORKERS[sys.argv[2]](), warm=[(WARM[sys.argv[2].partition("-")[2]],)])
    else:
        main()
