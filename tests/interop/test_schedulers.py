"""Scheduler configs: read, written and refused."""

import dataclasses

import pytest

from fmzoo.diffusion import Process, plan
from fmzoo.errors import InputError
from fmzoo.interop.scheduler_classes import DEFAULTS, OF_EDM_SOLVER, OF_FLOW_SOLVER, OF_SOLVER, SOLVER_OF
from fmzoo.interop.schedulers import process_from_scheduler, scheduler_from_process, solver_from_scheduler

EDM = Process(schedule="edm", prediction="edm", sigma_max=70.0)
FLOW = Process(schedule="flow", prediction="velocity", shift=3.0)
BETAS = Process(prediction="v_prediction", spacing="trailing", beta_end=0.013, steps_offset=0)
WAYS = [
    (solver, process)
    for process, classes in ((BETAS, OF_SOLVER), (EDM, OF_EDM_SOLVER), (FLOW, OF_FLOW_SOLVER))
    for solver in classes
]


@pytest.mark.parametrize(("solver", "process"), WAYS, ids=lambda x: x if isinstance(x, str) else x.schedule)
def test_what_is_written_is_read(solver, process):
    config = scheduler_from_process(process, solver)
    read = process_from_scheduler(config)
    if process is not BETAS:  # whose configs say nothing of betas
        said = ("schedule", "shift", "sigma_max", "prediction", "num_train_timesteps")
        read = dataclasses.replace(process, **{field: getattr(read, field) for field in said})
    assert read == process
    assert solver_from_scheduler(config) == solver


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_class_does_by_default_what_its_full_config_says(name):
    short = process_from_scheduler({"_class_name": name, "_diffusers_version": "0.30.0"})
    full = process_from_scheduler({"_class_name": name} | DEFAULTS[name])
    assert plan(short, SOLVER_OF[name], 4).process == plan(full, SOLVER_OF[name], 4).process


def test_what_is_not_said_is_left_to_the_solver():
    short = process_from_scheduler({"_class_name": "PNDMScheduler", "skip_prk_steps": True})
    assert (short.spacing, short.threshold, short.final_alpha_one) == ("default", "default", "default")
    said = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": False}
    full = process_from_scheduler({"_class_name": "DDIMScheduler"} | said)
    assert (full.spacing, full.threshold, full.final_alpha_one) == ("trailing", None, False)


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("DDIMScheduler", "beta_schedule", "sigmoid"),
        ("DDIMScheduler", "trained_betas", [0.1, 0.2]),
        ("DDIMScheduler", "beta_end", "0.02"),
        ("DDPMScheduler", "variance_type", "learned"),
        ("DDPMScheduler", "prediction_type", "score"),
        ("EulerDiscreteScheduler", "use_beta_sigmas", True),
        ("EulerDiscreteScheduler", "interpolation_type", "log_linear"),
        ("EulerDiscreteScheduler", "final_sigmas_type", "sigma_min"),
        ("EulerDiscreteScheduler", "sigma_min", 0.1),
        ("DPMSolverMultistepScheduler", "solver_order", 3),
        ("DPMSolverMultistepScheduler", "solver_type", "heun"),
        ("DPMSolverMultistepScheduler", "algorithm_type", "dpmsolver"),
        ("UniPCMultistepScheduler", "solver_type", "bh1"),
        ("UniPCMultistepScheduler", "predict_x0", False),
        ("FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting", True),
        ("EDMEulerScheduler", "sigma_schedule", "exponential"),
        ("EDMEulerScheduler", "prediction_type", "v_prediction"),
        ("PNDMScheduler", "a_new_attribute", 3),
    ],
)
def test_what_would_change_a_picture_is_refused_by_name(name, attribute, value):
    with pytest.raises(InputError) as error:
        process_from_scheduler({"_class_name": name, attribute: value})
    assert attribute in str(error.value)
    assert len(str(error.value)) < 300


def test_what_no_class_says_is_refused():
    with pytest.raises(InputError, match="_class_name 'DDIMSchedular'; the nearest are DDIMScheduler"):
        process_from_scheduler({"_class_name": "DDIMSchedular"})
    with pytest.raises(InputError, match="skip_prk_steps 'False'"):
        solver_from_scheduler({"_class_name": "PNDMScheduler"})
    with pytest.raises(InputError, match="prediction is 'velocity', which DDIMScheduler cannot say"):
        scheduler_from_process(Process(prediction="velocity"), "ddim")
    with pytest.raises(InputError, match="zero_terminal_snr is True, which HeunDiscreteScheduler cannot say"):
        scheduler_from_process(Process(zero_terminal_snr=True, prediction="sample"), "heun")
    with pytest.raises(InputError, match="solver 'heun' has no class in diffusers for a schedule 'edm'"):
        scheduler_from_process(EDM, "heun")
    with pytest.raises(InputError, match="threshold is 'dynamic', which EulerDiscreteScheduler cannot say"):
        scheduler_from_process(Process(threshold="dynamic"), "euler")
