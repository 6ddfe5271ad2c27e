"""`scheduler_config.json` of diffusers, both ways: the process that it describes, and the solver that its class is."""

from collections.abc import Mapping
from typing import Any

from fmzoo.diffusion import Process
from fmzoo.errors import InputError, nearest
from fmzoo.interop.attributes import Attributes
from fmzoo.interop.scheduler_classes import (
    DEFAULTS,
    KNOWN,
    NEUTRAL,
    OF_EDM_SOLVER,
    OF_FLOW_SOLVER,
    OF_SOLVER,
    SOLVER_OF,
)

Config = Mapping[str, Any]
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}
SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "linspace"}
VARIANCES: dict[str, dict[str, Any]] = {
    "fixed_small": {}, "fixed_small_log": {}, "fixed_large": {"variance": "large"},
    "learned_range": {"learned_variance": True},
}  # fmt: skip
SDE = "sde-dpmsolver++"
ALGORITHMS = {"dpmsolver++": "dpm++2m", "deis": "dpm++2m", SDE: "dpm++2m-sde"}
UNBOUNDED = 1e30
# The forms of multistep solvers: the first is the one here, and a form of another class means it to this one.
FORMS = dict.fromkeys((OF_SOLVER["dpm++2m"], OF_EDM_SOLVER["dpm++2m"]), ("midpoint", "logrho", "bh1", "bh2")) | {
    OF_SOLVER["unipc"]: ("bh2", "midpoint", "heun", "logrho")
}


def process_from_scheduler(config: Config) -> Process:
    """The process of a scheduler's config.

    What a config does not say and classes do differently (spacing, clipping, the last step of DDIM and PLMS) is left
    to the solver, as it is in diffusers when `from_config` changes the class.

    Raises:
      InputError: an unknown class, or an attribute that would change a picture and is not known here.
    """
    name, a = _attributes(config)
    if name in OF_EDM_SOLVER.values():
        values = _read_edm(a)
    elif name == OF_FLOW_SOLVER["flow-euler"] or config.get("use_flow_sigmas"):
        values = _read_flow(a, "shift" if name == OF_FLOW_SOLVER["flow-euler"] else "flow_shift")
    else:
        values = _read_betas(a, config) | _read_choices(a, config)
    values |= _read_threshold(a, name, config)
    _close(a, name, config)
    return Process(num_train_timesteps=a.integer("num_train_timesteps", least=2, most=1_000_000), **values)


def solver_from_scheduler(config: Config) -> str:
    """The solver that a scheduler's class is.

    Raises:
      InputError: an unknown class or algorithm, or PNDM's with Runge-Kutta steps, which no solver here takes.
    """
    name, a = _attributes(config)
    if name == OF_SOLVER["plms"] and not a.take("skip_prk_steps", bool):
        raise a.refuse("skip_prk_steps", False, "True, as plms takes no Runge-Kutta steps,")
    return a.one_of("algorithm_type", ALGORITHMS) if "algorithm_type" in DEFAULTS[name] else SOLVER_OF[name]


def scheduler_from_process(process: Process, solver: str) -> dict[str, Any]:
    """A `scheduler_config.json` that diffusers reads as this process, of the solver's class.

    Raises:
      InputError: no class of diffusers follows this solver on this schedule, or can say what the process says.
    """
    classes = {"edm": OF_EDM_SOLVER, "flow": OF_FLOW_SOLVER}.get(process.schedule, OF_SOLVER)
    if solver not in classes:
        raise InputError(
            f"solver {str(solver)[:40]!r} has no class in diffusers for a schedule {process.schedule!r}; "
            f"{nearest(str(solver), classes)}"
        )
    name = classes[solver]
    write = {"edm": _write_edm, "flow": _write_flow}.get(process.schedule, _write_betas)
    given = write(process, name) | _write_threshold(process, name)
    given["num_train_timesteps"] = process.num_train_timesteps
    given |= {"algorithm_type": SDE if solver == "dpm++2m-sde" else "dpmsolver++", "skip_prk_steps": True}
    always = {"clip_sample", "set_alpha_to_one"} if process.is_discrete else set()  # for a change of class
    return {"_class_name": name} | {key: v for key, v in given.items() if key in DEFAULTS[name] or key in always}


def _attributes(config: Config) -> tuple[str, Attributes]:
    name = config.get("_class_name")
    if name not in DEFAULTS:
        raise InputError(f"scheduler config has _class_name {str(name)[:60]!r}; {nearest(str(name), DEFAULTS)}")
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    everything = {key: value for defaults in DEFAULTS.values() for key, value in defaults.items()}
    return name, Attributes(given, everything | DEFAULTS[name], f"scheduler config of {name}")


def _close(a: Attributes, name: str, config: Config) -> None:
    """Refuses what would change a picture; lets pass what the class does not read, as diffusers does."""
    for key, accepted in NEUTRAL.items():
        if key in DEFAULTS[name]:
            a.demand(key, *accepted)
    if "solver_type" in DEFAULTS[name]:
        a.demand("solver_type", *FORMS[name])
    if DEFAULTS[name].get("sigma_min", 0) is None:
        a.demand("sigma_min", None)
        a.demand("sigma_max", None)
    for key in KNOWN.intersection(config):
        a.demand(key, config[key])
    a.close()


def _read_betas(a: Attributes, config: Config) -> dict[str, Any]:
    zero_snr = a.take("rescale_betas_zero_snr", bool)
    variance = {} if config.get("variance_type") is None else a.one_of("variance_type", VARIANCES)
    return variance | {
        "schedule": a.one_of("beta_schedule", SCHEDULES),
        "beta_start": a.number("beta_start"),
        "beta_end": a.number("beta_end"),
        "prediction": a.one_of("prediction_type", PREDICTIONS),
        "steps_offset": a.integer("steps_offset", least=0),
        "zero_terminal_snr": zero_snr,
        "karras": bool(a.take("use_karras_sigmas", bool, optional=True)),
    }


def _read_choices(a: Attributes, config: Config) -> dict[str, Any]:
    spacing = a.one_of("timestep_spacing", SPACINGS) if "timestep_spacing" in config else "default"
    final = a.take("set_alpha_to_one", bool) if "set_alpha_to_one" in config else "default"
    return {"spacing": spacing, "final_alpha_one": final}


def _read_flow(a: Attributes, shift: str) -> dict[str, Any]:
    a.demand("use_karras_sigmas", False, None)
    if shift == "flow_shift":
        a.one_of("prediction_type", {"flow_prediction": "velocity"})
    return {"schedule": "flow", "shift": a.number(shift), "prediction": "velocity"}


def _read_edm(a: Attributes) -> dict[str, Any]:
    """In EDM's classes "epsilon" names F, and "v_prediction" its negative, which is v for data of deviation 1."""
    prediction = a.one_of("prediction_type", {"epsilon": "edm", "v_prediction": "v_prediction"})
    sizes = {key: a.number(key) for key in ("sigma_min", "sigma_max", "sigma_data", "rho")}
    if prediction == "v_prediction" and sizes["sigma_data"] != 1:
        raise a.refuse("sigma_data", sizes["sigma_data"], "1 with prediction_type 'v_prediction'")
    return sizes | {"schedule": "edm", "prediction": prediction}


def _read_threshold(a: Attributes, name: str, config: Config) -> dict[str, Any]:
    """Clipping is left to the solver where a config says nothing, or what DDPM and DDIM do anyway."""
    if a.take("thresholding", bool):
        percentile, largest = a.number("dynamic_thresholding_ratio"), a.number("sample_max_value")
        largest = None if largest >= UNBOUNDED else largest
        return {"threshold": "dynamic", "threshold_percentile": percentile, "threshold_max": largest}
    if "clip_sample" in config and not a.take("clip_sample", bool):
        return {"threshold": None}
    if name not in OF_SOLVER.values() or config.get("use_flow_sigmas"):
        return {"threshold": None}
    clips = "clip_sample" in config and name == OF_SOLVER["heun"]
    return {"threshold": "static" if clips else "default", "clip_range": a.number("clip_sample_range")}


def _write_betas(process: Process, name: str) -> dict[str, Any]:
    kinds = [kind for kind in PREDICTIONS if kind != "sample" or name not in (OF_SOLVER["plms"], OF_SOLVER["euler-a"])]
    _need(process, "prediction", kinds, name)
    if "rescale_betas_zero_snr" not in DEFAULTS[name]:
        _need(process, "zero_terminal_snr", [False], name)
    variance = "learned_range" if process.learned_variance else f"fixed_{process.variance}"
    choices = {"timestep_spacing": process.spacing, "set_alpha_to_one": process.final_alpha_one}
    return {
        "beta_schedule": {ours: theirs for theirs, ours in SCHEDULES.items()}[process.schedule],
        "beta_start": process.beta_start,
        "beta_end": process.beta_end,
        "prediction_type": process.prediction,
        "steps_offset": process.steps_offset,
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "use_karras_sigmas": process.karras,
        "variance_type": variance if name == OF_SOLVER["ddpm"] else None,
    } | {key: choice for key, choice in choices.items() if choice != "default"}


def _write_flow(process: Process, name: str) -> dict[str, Any]:
    _need(process, "prediction", ["velocity"], name)
    flow = {"use_flow_sigmas": True, "flow_shift": process.shift, "prediction_type": "flow_prediction"}
    return flow | {"shift": process.shift}


def _write_edm(process: Process, name: str) -> dict[str, Any]:
    _need(process, "prediction", ["edm"] + ["v_prediction"] * (process.sigma_data == 1), name)
    sizes = {key: getattr(process, key) for key in ("sigma_min", "sigma_max", "sigma_data", "rho")}
    return sizes | {"prediction_type": "epsilon" if process.prediction == "edm" else process.prediction}


def _write_threshold(process: Process, name: str) -> dict[str, Any]:
    if process.threshold == "default":
        return {"clip_sample_range": process.clip_range}
    kinds: list[Any] = [None]
    kinds += ["static"] * ("clip_sample" in DEFAULTS[name]) + ["dynamic"] * ("thresholding" in DEFAULTS[name])
    _need(process, "threshold", kinds, name)
    return {
        "clip_sample": process.threshold == "static",
        "clip_sample_range": process.clip_range,
        "thresholding": process.threshold == "dynamic",
        "dynamic_thresholding_ratio": process.threshold_percentile,
        "sample_max_value": UNBOUNDED if process.threshold_max is None else process.threshold_max,
    }


def _need(process: Process, field: str, accepted: list[Any], name: str) -> None:
    value = getattr(process, field)
    if value not in accepted:
        raise InputError(f"{field} is {value!r}, which {name} cannot say; {' or '.join(map(repr, accepted))} is needed")
