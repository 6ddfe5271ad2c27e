"""Jinja templates that a checkpoint brings along: run in a sandbox, for a bounded time and size."""

import datetime
import functools
import json
import string
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes, sandbox
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, do_indent, do_join
from jinja2.visitor import NodeTransformer

from fmzoo.errors import InputError

MOST_SOURCE, MOST_TEXT, MOST_ROUNDS, MOST_WORK, MOST_BITS = 200_000, 4_000_000, 50_000, 1_000_000, 128
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


class _Exhausted(Exception):
    """A template used up what one rendering may take."""


class _Budget:
    """What one rendering has used."""

    def __init__(self) -> None:
        self._rounds = self._text = self._work = 0

    def round(self) -> None:
        """Counts a round of a loop or a call of a macro."""
        self._rounds += 1
        if self._rounds > MOST_ROUNDS:
            raise _Exhausted(f"over {MOST_ROUNDS} rounds of its loops")

    def write(self, value: Any) -> Any:
        """Counts what is written, also what is written into a variable."""
        self._text += len(value) if isinstance(value, str) else len(str(self.measure(value)))
        if self._text > MOST_TEXT:
            raise _Exhausted(f"over {MOST_TEXT} characters")
        return value

    def measure(self, value: Any) -> Any:
        """Gives a value back, unless it, or all that was measured so far, has grown too large."""
        left = [value]
        while left:
            part = left.pop()
            self._work += 1
            if isinstance(part, str):
                _check_size(len(part))
                self._work += len(part) // 64
            elif isinstance(part, list | tuple):
                left += part
            elif isinstance(part, dict):
                left += part.keys()
                left += part.values()
            if self._work > MOST_WORK:
                raise _Exhausted(f"over {MOST_WORK} steps")
        return value


def _check_size(size: int) -> None:
    if size > MOST_TEXT:
        raise _Exhausted(f"a value of over {MOST_TEXT} characters")


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _check_size(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


@jinja2.pass_eval_context
def _join(context: Any, values: Any, separator: str = "", attribute: Any = None) -> str:
    values = list(values)
    _check_size(sum(len(str(value)) for value in values) + len(values) * len(str(separator)))
    return do_join(context, values, separator, attribute)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    room = width if isinstance(width, int) else len(width)
    _check_size(len(text) + (text.count("\n") + 1) * room)
    return do_indent(text, width, first, blank)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if not (indent is None or (isinstance(indent, int) and indent <= 16)):
        raise _Exhausted(f"tojson with indent {str(indent)[:20]!r}, where at most 16 is accepted")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


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
        self.filters |= {"replace": _replace, "join": _join, "indent": _indent, "tojson": _tojson}
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
            _check_size(len(owner) + owner.count("{") * max(given, default=0))
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
            return _replace(owner, *args, **kwargs)
        if obj.__name__ == "join":
            values = list(*args)
            _check_size(sum(map(len, values)) + len(owner) * len(values))
            return owner.join(values)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Adds and multiplies what stays small."""
        sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
        numbers = [x for x in (left, right) if isinstance(x, int | float)]
        if operator == "**" or (operator == "%" and sizes):
            raise _Exhausted(f"the operator {operator} on {type(left).__name__}, which is not accepted")
        if any(isinstance(x, int) and x.bit_length() > MOST_BITS for x in numbers):
            raise _Exhausted(f"a number of over {MOST_BITS} bits")
        if operator == "*" and sizes:
            _check_size(sizes[0] * int(max([*numbers, 0])))
        elif sizes:
            _check_size(sum(sizes))
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
    budget, day = _Budget(), today or datetime.date.today()
    hidden = {BUDGET: budget, ROUND: budget.round, SIZED: budget.measure, ANSWER: lambda caller: answer(caller())}
    try:
        return _compile(source)[0].render({**values, **hidden, "strftime_now": day.strftime})
    except _Exhausted as error:
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
