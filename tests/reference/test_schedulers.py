"""Every solver against its scheduler in diffusers, over whole loops with the same network and the same noise.

Two float32 loops differ by rounding, which the division by alpha magnifies; the tables of diffusers are float32 as
well. The tolerance is 1e-4 of the largest value of the final sample.
"""

import importlib
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmzoo.diffusion import SOLVERS, estimate, initial, plan
from fmzoo.errors import InputError
from fmzoo.interop.scheduler_classes import OF_EDM_SOLVER, OF_FLOW_SOLVER, OF_SOLVER
from fmzoo.interop.schedulers import process_from_scheduler, scheduler_from_process, solver_from_scheduler

pytestmark = [
    pytest.mark.reference,
    # diffusers turns torch's tensors, which know no copy keyword, into arrays
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

TOLERANCE = 1e-4
SHAPE = (2, 3, 5, 4)
KEYS = jax.random.split(jax.random.key(7), SHAPE[0])
NOISE = np.asarray(jax.vmap(lambda key: jax.random.normal(key, SHAPE[1:]))(KEYS))
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
DDPM_BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
COS_XL = {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 120.0, "rho": 5.0}
SPACINGS = ("leading", "trailing", "linspace")
KARRAS = ("euler", "heun", "dpm++2m", "dpm++2m-sde", "unipc")
ZERO_SNR = ("ddpm", "ddim", "euler", "euler-a", "dpm++2m", "dpm++2m-sde", "unipc")


def network(x, t):
    """Not linear, not the same at all times, and bounded as a trained network is."""
    t = np.float32(t)
    return (np.tanh(1.3 * x + 0.2 * np.cos(t / 90)) - 0.1 * x * np.sin(t / 300) + 0.05).astype(np.float32)


def noise_of(step):
    return np.asarray(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), SHAPE[1:]))(KEYS))


def scheduler_of(config, solver, schedule, **options):
    import diffusers

    classes = {"edm": OF_EDM_SOLVER, "flow": OF_FLOW_SOLVER}.get(schedule, OF_SOLVER)
    if solver == "dpm++2m-sde":
        options["algorithm_type"] = "sde-dpmsolver++"
    if solver == "plms":
        options["skip_prk_steps"] = True
    return getattr(diffusers, classes[solver]).from_config(
        {k: v for k, v in config.items() if k != "_class_name"}, **options
    )


def theirs(scheduler, steps, monkeypatch, call=network, **options):
    import torch

    module = importlib.import_module(type(scheduler).__module__)
    number = [0]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.from_numpy(noise_of(number[0]).copy()))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    x = torch.from_numpy(NOISE.copy()) * getattr(scheduler, "init_noise_sigma", 1.0)
    with np.errstate(all="ignore"):
        for i, t in enumerate(scheduler.timesteps):
            number[0] = i
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = torch.from_numpy(call(scaled.numpy(), t.item()))
            x = scheduler.step(output, t, x, return_dict=False, **options)[0]
    return x.numpy()


def ours(process, solver, steps, call=network):
    walk = plan(process, solver, steps)
    rows = {name: column.astype(np.float32) for name, column in walk.rows.items()}
    x, chosen = initial(walk, jnp.asarray(NOISE)), SOLVERS[solver]
    memory = chosen.memory(x)
    for i in range(len(walk)):
        row = {name: column[i] for name, column in rows.items()}
        said = estimate(
            walk.process,
            jnp.asarray(call(np.asarray(x * row["input_scale"]), row["time"])),
            x,
            row["alpha"],
            row["sigma"],
        )
        noise = jnp.asarray(noise_of(walk.rows["step"][i])) if chosen.stochastic else None
        x, memory = chosen.step(row, memory, said, x, noise)
    return np.asarray(x)


def assert_same(ours_, theirs_):
    assert np.isfinite(ours_).all()
    np.testing.assert_allclose(ours_, theirs_, rtol=0, atol=TOLERANCE * max(1.0, np.abs(theirs_).max()))


def check(config, solver, steps, monkeypatch, schedule="betas", **options):
    scheduler = scheduler_of(config, solver, schedule, **options)
    process = process_from_scheduler({"_class_name": type(scheduler).__name__} | config | options)
    assert_same(ours(process, solver, steps), theirs(scheduler, steps, monkeypatch))


def predictions(solver):
    return ("epsilon", "v_prediction") + (("sample",) if solver not in ("plms", "euler-a") else ())


CASES = [
    (solver, prediction, spacing) for solver in OF_SOLVER for prediction in predictions(solver) for spacing in SPACINGS
]


@pytest.mark.parametrize(("solver", "prediction", "spacing"), CASES)
def test_a_solver_follows_its_scheduler(solver, prediction, spacing, monkeypatch):
    options = {"prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": 1}
    check(SD, solver, 8, monkeypatch, **options)
    check(DDPM_BETAS, solver, 21, monkeypatch, **options)


@pytest.mark.parametrize("solver", OF_SOLVER)
def test_cosine_betas_and_few_steps(solver, monkeypatch):
    """Short of the end of the cosine schedule, where sigma / alpha is 20,000 and float32 in diffusers loses 1e-3."""
    for steps in (1, 2, 3, 17):
        check(COSINE, solver, steps, monkeypatch, prediction_type="v_prediction", timestep_spacing="leading")
        check(SD, solver, steps, monkeypatch, prediction_type="v_prediction", timestep_spacing="trailing")


def test_heun_from_the_end_of_the_cosine_schedule(monkeypatch):
    """Ours leaves the correction of the first step out; with it, it is diffusers' to what float32 loses there."""
    options = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = scheduler_of(COSINE, "heun", "betas", **options)
    process = process_from_scheduler({"_class_name": "HeunDiscreteScheduler"} | COSINE | options)
    drawn, theirs_ = ours(process, "heun", 10), theirs(scheduler, 10, monkeypatch)
    assert np.abs(drawn).max() < 3
    assert np.abs(theirs_).max() > 30
    monkeypatch.setattr("fmzoo.diffusion.single_step.LARGEST_FALL", np.inf)
    assert np.linalg.norm(ours(process, "heun", 10) - theirs_) < 0.02 * np.linalg.norm(theirs_)


@pytest.mark.parametrize("solver", KARRAS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_sigmas_spaced_as_karras(solver, spacing, monkeypatch):
    options = {"use_karras_sigmas": True, "timestep_spacing": spacing}
    check(SD, solver, 9, monkeypatch, **options)
    check(DDPM_BETAS, solver, 14, monkeypatch, prediction_type="v_prediction", **options)


@pytest.mark.parametrize("solver", ["dpm++2m", "unipc"])
def test_times_of_karras_on_the_cosine_schedule(solver):
    """DPM-Solver++ takes their whole part there, UniPC rounds them."""
    options = {"use_karras_sigmas": True, "prediction_type": "v_prediction"}
    scheduler = scheduler_of(COSINE, solver, "betas", **options)
    scheduler.set_timesteps(9)
    walk = plan(process_from_scheduler({"_class_name": type(scheduler).__name__} | COSINE | options), solver, 9)
    np.testing.assert_array_equal(walk.rows["time"], scheduler.timesteps)
    np.testing.assert_allclose(walk.rows["sigma"] / walk.rows["alpha"], scheduler.sigmas[:-1], rtol=1e-6)


@pytest.mark.parametrize("solver", ZERO_SNR)
def test_zero_terminal_snr(solver, monkeypatch):
    options = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    check(SD, solver, 12, monkeypatch, **options)


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("solver", ["ddim", "plms"])
def test_the_last_step(solver, final, monkeypatch):
    check(SD, solver, 10, monkeypatch, set_alpha_to_one=final, steps_offset=0)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_fixed_variances(variance_type, monkeypatch):
    check(DDPM_BETAS, "ddpm", 13, monkeypatch, variance_type=variance_type, steps_offset=1)


def test_learned_variance(monkeypatch):
    both = lambda x, t: (network(x, t), np.sin(3 * x) - 0.2)  # noqa: E731
    scheduler = scheduler_of(SD, "ddpm", "betas", variance_type="learned_range")
    process = process_from_scheduler(SD | {"_class_name": "DDPMScheduler", "variance_type": "learned_range"})
    assert process.learned_variance
    theirs_ = theirs(scheduler, 12, monkeypatch, call=lambda x, t: np.concatenate(both(x, t), axis=1))
    assert_same(ours(process, "ddpm", 12, call=lambda x, t: np.concatenate(both(x, t), axis=-1)), theirs_)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm++2m", "dpm++2m-sde", "unipc"])
def test_dynamic_threshold(solver, monkeypatch):
    options = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.4}
    scheduler = scheduler_of(DDPM_BETAS, solver, "betas", **options)
    process = process_from_scheduler({"_class_name": "DDPMScheduler"} | DDPM_BETAS | options)
    recomputed = {"use_clipped_model_output": True} if solver == "ddim" else {}
    assert_same(ours(_spaced(process, scheduler), solver, 11), theirs(scheduler, 11, monkeypatch, **recomputed))


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "heun"])
def test_clipping(solver, monkeypatch):
    config = DDPM_BETAS | {"clip_sample": True, "clip_sample_range": 0.8}
    scheduler = scheduler_of(config, solver, "betas")
    process = process_from_scheduler({"_class_name": type(scheduler).__name__} | config)
    recomputed = {"use_clipped_model_output": True} if solver == "ddim" else {}
    assert_same(ours(process, solver, 11), theirs(scheduler, 11, monkeypatch, **recomputed))


def _spaced(process, scheduler):
    import dataclasses

    return dataclasses.replace(process, spacing=scheduler.config.timestep_spacing)


@pytest.mark.parametrize("solver", OF_EDM_SOLVER)
@pytest.mark.parametrize(
    "config", [{}, {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 120.0, "rho": 5.0}]
)
def test_edm(solver, config, monkeypatch):
    for steps in (2, 9, 18):
        check(config, solver, steps, monkeypatch, schedule="edm")


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_flow(shift, steps, monkeypatch):
    check({}, "flow-euler", steps, monkeypatch, schedule="flow", shift=shift)


@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++2m-sde", "unipc"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_multistep_solvers_on_a_flow(solver, shift, monkeypatch):
    options = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
    for steps in (3, 20):
        check({}, solver, steps, monkeypatch, schedule="flow", **options)


# Stable Diffusion 1.5's config as it was published: it does not say its spacing, and carries what PNDM does not read.
PUBLISHED = {
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None, "clip_sample": False,
}  # fmt: skip


@pytest.mark.parametrize("solver", OF_SOLVER)
@pytest.mark.parametrize("left_out", [(), ("clip_sample", "set_alpha_to_one")])
def test_a_change_of_solver_is_from_config(solver, left_out, monkeypatch):
    config = {key: value for key, value in PUBLISHED.items() if key not in left_out}
    process = process_from_scheduler(config)
    scheduler = scheduler_of(config, solver, "betas")
    recomputed = {"use_clipped_model_output": True} if solver == "ddim" else {}
    assert_same(ours(process, solver, 10), theirs(scheduler, 10, monkeypatch, **recomputed))


@pytest.mark.parametrize("solver", [*OF_SOLVER, "flow-euler", "edm euler", "edm dpm++2m"])
def test_what_we_write_diffusers_reads(solver, monkeypatch, tmp_path):
    import diffusers

    kind, name = solver.split() if " " in solver else ("", solver)
    config = {"edm": {"_class_name": "EDMEulerScheduler", "sigma_max": 70.0}}.get(kind, PUBLISHED)
    if solver == "flow-euler":
        config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    process = process_from_scheduler(config)
    written = scheduler_from_process(process, name)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(written))
    with warnings.catch_warnings():
        scheduler = getattr(diffusers, written["_class_name"]).from_pretrained(tmp_path)
    assert process_from_scheduler(written) == process
    assert solver_from_scheduler(written) == name
    assert_same(ours(process, name, 7), theirs(scheduler, 7, monkeypatch))
    saved = dict(scheduler.config)
    assert plan(process_from_scheduler(saved), name, 7).process.prediction == process.prediction


def test_a_planted_error_is_seen(monkeypatch):
    """An offset of one step is outside the tolerance."""
    scheduler = scheduler_of(SD, "ddim", "betas", steps_offset=1)
    process = process_from_scheduler({"_class_name": "DDIMScheduler"} | SD | {"steps_offset": 2})
    with pytest.raises(AssertionError):
        assert_same(ours(process, "ddim", 8), theirs(scheduler, 8, monkeypatch))


def test_noise_is_not_predicted_from_pure_noise():
    with pytest.raises(InputError, match="epsilon"):
        process_from_scheduler({"_class_name": "DDIMScheduler"} | SD | {"rescale_betas_zero_snr": True})
