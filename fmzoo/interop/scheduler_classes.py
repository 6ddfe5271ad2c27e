"""The scheduler classes of diffusers: what each reads, with its default, and which of our solvers it is."""

from typing import Any

BETAS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon", "steps_offset": 0,
}  # fmt: skip
ZERO_SNR = {"rescale_betas_zero_snr": False}
CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
ENDS = {"sigma_min": None, "sigma_max": None}
FLOW_SIGMAS = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False}
LINSPACE, LEADING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "leading"}
ZERO = {"final_sigmas_type": "zero"}
EDM = {
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "rho": 7.0,
}  # fmt: skip
DPM = {
    "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True,
    "euler_at_final": False,
}  # fmt: skip
UNIPC = {
    "solver_order": 2, "predict_x0": True, "solver_type": "bh2", "lower_order_final": True, "disable_corrector": [],
    "solver_p": None, "shift_terminal": None,
}  # fmt: skip
FLOW = {
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "invert_sigmas": False,
    "shift_terminal": None, "stochastic_sampling": False,
}  # fmt: skip
MULTISTEP = BETAS | ZERO_SNR | SIGMAS | FLOW_SIGMAS | THRESHOLD | LINSPACE | ZERO

DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": BETAS | ZERO_SNR | CLIP | THRESHOLD | LEADING | {"variance_type": "fixed_small"},
    "DDIMScheduler": BETAS | ZERO_SNR | CLIP | THRESHOLD | LEADING | {"set_alpha_to_one": True},
    "PNDMScheduler": BETAS | LEADING | {"set_alpha_to_one": False, "skip_prk_steps": False},
    "EulerDiscreteScheduler": BETAS | ZERO_SNR | SIGMAS | ENDS | LINSPACE | ZERO
    | {"interpolation_type": "linear", "timestep_type": "discrete"},
    "EulerAncestralDiscreteScheduler": BETAS | ZERO_SNR | LINSPACE,
    "HeunDiscreteScheduler": BETAS | {"beta_start": 0.00085, "beta_end": 0.012} | SIGMAS | LINSPACE
    | {"clip_sample": False, "clip_sample_range": 1.0},
    "DPMSolverMultistepScheduler": MULTISTEP | DPM
    | {"use_lu_lambdas": False, "lambda_min_clipped": float("-inf"), "variance_type": None},
    "UniPCMultistepScheduler": MULTISTEP | UNIPC | ENDS,
    "FlowMatchEulerDiscreteScheduler": FLOW | SIGMAS,
    "EDMEulerScheduler": EDM | ZERO,
    "EDMDPMSolverMultistepScheduler": EDM | ZERO | DPM | THRESHOLD,
}  # fmt: skip
OF_SOLVER = {
    "ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "plms": "PNDMScheduler", "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler", "heun": "HeunDiscreteScheduler",
    "dpm++2m-sde": "DPMSolverMultistepScheduler", "dpm++2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}  # fmt: skip
OF_EDM_SOLVER = {
    "euler": "EDMEulerScheduler", "dpm++2m-sde": "EDMDPMSolverMultistepScheduler",
    "dpm++2m": "EDMDPMSolverMultistepScheduler",
}  # fmt: skip
OF_FLOW_SOLVER = {
    "flow-euler": "FlowMatchEulerDiscreteScheduler", "dpm++2m-sde": "DPMSolverMultistepScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler",
}  # fmt: skip
SOLVER_OF = {name: solver for solver, name in (OF_SOLVER | OF_FLOW_SOLVER).items()} | {
    name: solver for solver, name in OF_EDM_SOLVER.items()
}

# What changes a picture unless it has one of these values.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "trained_betas": (None,), "use_exponential_sigmas": (False, None), "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False,), "final_sigmas_type": ("zero",), "interpolation_type": ("linear",),
    "timestep_type": ("discrete",), "solver_order": (2,), "lower_order_final": (True,), "euler_at_final": (False,),
    "predict_x0": (True,), "disable_corrector": ([],), "solver_p": (None,), "use_dynamic_shifting": (False,),
    "invert_sigmas": (False,), "shift_terminal": (None,), "stochastic_sampling": (False,),
    "sigma_schedule": ("karras",), "lambda_min_clipped": (float("-inf"), None),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),
}  # fmt: skip
# Read only with dynamic shifting, or only by classes that are not here.
UNREAD = frozenset({"base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift", "time_shift_type"})
KNOWN = UNREAD.union(*DEFAULTS.values())
