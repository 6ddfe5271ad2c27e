"""Floating-point operations of a network, counted in its trace."""

import math

import jax


def count_operations(module, shapes, **options):
    """Two for each multiply-add of matrix products and convolutions; nothing is computed."""
    params = jax.eval_shape(module.init, jax.random.key(0), *shapes)
    traced = jax.make_jaxpr(lambda params, *inputs: module.apply(params, *inputs, **options))
    return _of(traced(params, *shapes).jaxpr)


def _of(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            total += 2 * out.size * math.prod(equation.invars[1].aval.shape[:-1])
        times = equation.params.get("length", 1)  # of a scan
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += times * _of(inner) if hasattr(inner, "eqns") else 0
    return total
