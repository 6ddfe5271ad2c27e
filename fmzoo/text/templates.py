"""Jinja templates that a checkpoint brings along: run in a sandbox, for a bounded time and size."""

import datetime
import functools
import string
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes, sandbox
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.visitor import NodeTransformer

from fmzoo.errors import InputError
from fmzoo.text.template_bounds import Budget, Exhausted, check_size, indent, join, replace, tojson

MOST_SOURCE, MOST_BITS = 200_000, 128
# Not among the methods and filters is what makes a long text of a short one (center, format, wordwrap), and chance.
STRING_METHODS = """
    capitalize count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace istitle isupper
    join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split
    splitlines startswith strip swapcase title upper
"""
FILTER_NAMES = """
    abs capitalize count d default dictsort e escape first float groupby int items last length list lower map max min
    reject rejectattr reverse round safe select selectattr sort string sum title trim unique upper
"""
# No template can name these, since a name does not begin with a digit.
BUDGET, ROUND, SIZED, ANSWER = "0budget", "0round", "0sized", "0answer"
FAILURES = (
    jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError,
    MemoryError, SyntaxError,
)  # fmt: skip


@jinja2.pass_context
def _write(context: Any, value: Any) -> Any:
    """What Jinja calls on everything that a template puts out."""
    return context.resolve(BUDGET).write(value)


class _Counting(NodeTransformer):
    """Lets every loop and macro count its rounds, and every value that is put together be measured."""

    def _count(self, node: Any) -> Any:
        node = self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call(ROUND), lineno=node.lineno))
        return node

    def _measure(self, node: Any) -> Any:
        node = self.generic_visit(node)
        if isinstance(node, nodes.Filter):
            node.node = _call(SIZED, node.node)
        if isinstance(node, nodes.Concat):
            node.nodes = [_call(SIZED, part) for part in node.nodes]
        return node if getattr(node, "ctx", "load") != "load" else _call(SIZED, node)

    def _visit_body(self, node: Any) -> Any:
        """A block whose text is filtered: that text has been counted as it was written."""
        node.body = [self.visit(part) for part in node.body]
        return node

    visit_FilterBlock = visit_AssignBlock = _visit_body  # noqa: N815 - as Jinja calls them
    visit_For = visit_Macro = visit_CallBlock = _count  # noqa: N815
    visit_Concat = visit_Filter = visit_List = visit_Tuple = visit_Dict = _measure  # noqa: N815


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), list(arguments), [], None, None)


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: what is inside is the model's own answer."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(_call(ANSWER), [], [], body, lineno=line)


class _Environment(sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which a template can take neither long nor much."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, finalize=_write, extensions=[_Generation, loopcontrols],
            undefined=jinja2.Undefined,
        )  # fmt: skip
        self.filters = {name: FILTERS[name] for name in FILTER_NAMES.split()}
        self.filters |= {"replace": replace, "join": join, "indent": indent, "tojson": tojson}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals["raise_exception"] = _raise

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counting().visit(super()._parse(source, name, filename))

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` with plain fields only, since one with a width can be as long as it likes."""
        inner, owner = super().wrap_str_format(value), getattr(value, "__self__", None)
        if inner is None or any(spec for _, _, spec, _ in string.Formatter().parse(owner)):
            return None

        def format_short(*args: Any, **kwargs: Any) -> str:
            given = [len(str(part)) for part in (*args, *kwargs.values())]
            check_size(len(owner) + owner.count("{") * max(given, default=0))
            return inner(*args, **kwargs)

        return format_short

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of a text only the methods that cannot make it long."""
        if isinstance(obj, str):
            return attr in STRING_METHODS.split()
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the template's, ``replace`` and ``join`` of a text by ours."""
        owner = getattr(obj, "__self__", None)
        if not isinstance(owner, str):
            return super().call(context, obj, *args, **kwargs)
        context.resolve(BUDGET).measure(owner)
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith("_")}
        if obj.__name__ == "replace":
            return replace(owner, *args, **kwargs)
        if obj.__name__ == "join":
            values = list(*args)
            check_size(sum(map(len, values)) + len(owner) * len(values))
            return owner.join(values)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Adds and multiplies what stays small."""
        sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
        numbers = [x for x in (left, right) if isinstance(x, int | float)]
        if operator == "**" or (operator == "%" and sizes):
            raise Exhausted(f"the operator {operator} on {type(left).__name__}, which is not accepted")
        if any(isinstance(x, int) and x.bit_length() > MOST_BITS for x in numbers):
            raise Exhausted(f"a number of over {MOST_BITS} bits")
        if operator == "*" and sizes:
            check_size(sizes[0] * int(max([*numbers, 0])))
        elif sizes:
            check_size(sum(sizes))
        return context.resolve(BUDGET).measure(super().call_binop(context, operator, left, right))


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=32)
def _compile(source: str) -> tuple[jinja2.Template, bool]:
    environment = _Environment()
    marks = any(
        isinstance(block.call.node, nodes.Name) and block.call.node.name == ANSWER
        for block in environment._parse(source, None, None).find_all(nodes.CallBlock)
    )
    return environment.from_string(source), marks


def render_template(
    source: str, values: Mapping[str, Any], *, answer: Callable[[str], str] = str, today: datetime.date | None = None
) -> str:
    """The text of a template.

    Args:
      source: Jinja, as transformers takes it: blocks trimmed, ``break`` and ``continue``, ``raise_exception``,
        ``strftime_now`` and ``{% generation %}``.
      values: the names that it may use; plain values, not objects with methods of their own.
      answer: what to put in the place of the text inside ``{% generation %}``.
      today: what ``strftime_now`` formats; None is today.

    Raises:
      InputError: the template is longer than 200,000 characters, does not parse, raises an exception of its own, asks
        for what a sandbox does not give, or does not end within bounds: 50,000 rounds, 4,000,000 characters.
    """
    if len(source) > MOST_SOURCE:
        raise InputError(f"chat template has {len(source)} characters; at most {MOST_SOURCE} are accepted")
    budget, day = Budget(), today or datetime.date.today()
    hidden = {BUDGET: budget, ROUND: budget.round, SIZED: budget.measure, ANSWER: lambda caller: answer(caller())}
    try:
        return _compile(source)[0].render({**values, **hidden, "strftime_now": day.strftime})
    except Exhausted as error:
        raise InputError(f"chat template takes {error}; none that a model needs does") from None
    except FAILURES as error:
        raise InputError(f"chat template: {' '.join(str(error).split())[:200] or type(error).__name__}") from None


def marks_answers(source: str) -> bool:
    """Whether a template says by ``{% generation %}`` what the model's own answers are.

    Raises:
      InputError: it does not parse.
    """
    try:
        return _compile(source)[1]
    except FAILURES as error:
        raise InputError(f"chat template: {' '.join(str(error).split())[:200]}") from None
