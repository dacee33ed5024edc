"""A chat template, rendered for a conversation without jinja2.

The values are str, int, bool, None, list, dict, Undefined and Namespace. Steps, depth and sizes are
bounded. Whatever is not known raises UnknownTemplate; a rendering that is returned equals that of
transformers.

source  transformers 5.23.0, utils/chat_template_utils.py (render_jinja_template); jinja2 3.1.6,
        environment.py, runtime.py
"""

import operator
from collections.abc import Mapping
from typing import Any

from .jinja_functions import FILTERS, METHODS, TESTS
from .jinja_syntax import Node, parse
from .jinja_tokens import UnknownTemplate
from .jinja_values import (
    MOST,
    UNDEFINED,
    Namespace,
    checked,
    items_of,
    loop_variable,
    packed,
    text_of,
    truth_of,
    unpacked,
)

MOST_STEPS = 10_000
MOST_DEPTH = 150
_FUNCTIONS = ("namespace", "range", "raise_exception", "strftime_now")
# Names that jinja2 knows without a variable of that name, and that are not known here.
_UNKNOWN_NAMES = ("dict", "lipsum", "cycler", "joiner", "self", "caller", "varargs", "kwargs")


class _Break(Exception):
    """The statement break."""


class _Continue(Exception):
    """The statement continue."""


def render(text: str, variables: Mapping[str, Any]) -> str:
    """The text that a chat template makes of its variables (messages, bos_token and others).

    raises  UnknownTemplate where the template uses what is not known here or raises an exception
    """
    rendering = _Rendering(variables)
    try:
        rendering.run(parse(text))
    except (_Break, _Continue):
        raise UnknownTemplate("break or continue stands outside of a loop") from None
    return "".join(rendering.output)


class _Rendering:
    """One rendering: the variables and the text so far."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.scopes: list[dict[str, Any]] = [dict(variables)]
        self.output: list[str] = []
        self.n_characters = 0
        self.n_steps = 0
        self.depth = 0

    def write(self, text: str) -> None:
        """Add to the output."""
        self.n_characters += len(text)
        if self.n_characters > MOST:
            raise UnknownTemplate(f"it writes more than {MOST} characters")
        self.output.append(text)

    def step(self) -> None:
        """Count one step."""
        self.n_steps += 1
        if self.n_steps > MOST_STEPS:
            raise UnknownTemplate(f"it takes more than {MOST_STEPS} steps")

    def run(self, nodes: list[Node]) -> None:
        """Carry out statements."""
        for node in nodes:
            self.step()
            getattr(self, f"run_{node.kind}")(*node.parts)

    def run_scope(self, nodes: list[Node]) -> None:
        """Statements whose assignments end with them."""
        self.scopes.append({})
        try:
            self.run(nodes)
        finally:
            self.scopes.pop()

    def run_data(self, text: str) -> None:
        """Text outside of tags."""
        self.write(text)

    def run_print(self, node: Node) -> None:
        """{{ X }}."""
        self.write(text_of(self.value(node)))

    def run_if(self, cases: list[tuple[Node, list[Node]]], otherwise: list[Node]) -> None:
        """The first case whose condition is true."""
        for condition, nodes in cases:
            if truth_of(self.value(condition)):
                self.run(nodes)
                return
        self.run(otherwise)

    def run_break(self) -> None:
        """The innermost loop ends."""
        raise _Break

    def run_continue(self) -> None:
        """The innermost loop goes on with its next item."""
        raise _Continue

    def run_set(self, name: str, attribute: str | None, node: Node) -> None:
        """{% set NAME = X %} and {% set NAME.ATTRIBUTE = X %}."""
        self.assign(name, attribute, self.value(node))

    def run_set_block(self, name: str, attribute: str | None, nodes: list[Node]) -> None:
        """{% set NAME %}TEXT{% endset %}."""
        outer, self.output = self.output, []
        try:
            self.run_scope(nodes)
        finally:
            inner, self.output = self.output, outer
        self.assign(name, attribute, "".join(inner))

    def assign(self, name: str, attribute: str | None, value: object) -> None:
        """A variable of the innermost scope, or an attribute of a namespace, gets a value."""
        if attribute is None:
            self.scopes[-1][name] = value
            return
        namespace = self.get_name(name)
        if not isinstance(namespace, Namespace):
            raise UnknownTemplate(f"{name}.{attribute} is set, and {name} is no namespace")
        namespace.set(attribute, value)

    def run_for(
        self,
        names: list[str],
        iterable: Node,
        condition: Node | None,
        body: list[Node],
        otherwise: list[Node],
    ) -> None:
        """The body for each item that meets the condition; `otherwise` if there is none."""
        scopes = []
        for item in items_of(self.value(iterable)):
            self.step()
            scope = unpacked(names, item)
            self.scopes.append(scope)
            if condition is None or truth_of(self.value(condition)):
                scopes.append(scope)
            self.scopes.pop()
        if not scopes:
            self.run_scope(otherwise)
        items = [packed(names, scope) for scope in scopes]
        for index, scope in enumerate(scopes):
            self.step()
            scope["loop"] = loop_variable(index, items)
            depth = len(self.scopes)
            self.scopes.append(scope)
            try:
                self.run(body)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                del self.scopes[depth:]

    def value(self, node: Node) -> Any:
        """The value of an expression."""
        self.step()
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise UnknownTemplate(f"an expression is nested more than {MOST_DEPTH} levels deep")
        value = getattr(self, f"get_{node.kind}")(*node.parts)
        self.depth -= 1
        return value

    def get_constant(self, value: object) -> object:
        """A string, a number, true, false or none."""
        return value

    def get_undefined(self) -> object:
        """X if CONDITION without else."""
        return UNDEFINED

    def get_name(self, name: str) -> Any:
        """A variable, or a function that every template has."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        if name in _FUNCTIONS:
            return getattr(self, f"call_{name}")
        if name in _UNKNOWN_NAMES:
            raise UnknownTemplate(f"{name!r} is not known")
        return UNDEFINED

    def get_list(self, nodes: list[Node]) -> list[Any]:
        """[X, Y]."""
        return [self.value(node) for node in nodes]

    def get_dictionary(self, pairs: list[tuple[Node, Node]]) -> dict[Any, Any]:
        """{X: Y}."""
        found = {}
        for key, node in pairs:
            name = self.value(key)
            if not isinstance(name, str):
                raise UnknownTemplate("a dictionary has a key that is no string")
            found[name] = self.value(node)
        return found

    def get_and(self, left: Node, right: Node) -> Any:
        """The left value if it is false, else the right one."""
        value = self.value(left)
        return self.value(right) if truth_of(value) else value

    def get_or(self, left: Node, right: Node) -> Any:
        """The left value if it is true, else the right one."""
        value = self.value(left)
        return value if truth_of(value) else self.value(right)

    def get_not(self, node: Node) -> bool:
        """True if the value is false."""
        return not truth_of(self.value(node))

    def get_choice(self, condition: Node, node: Node, otherwise: Node) -> Any:
        """X if CONDITION else Y."""
        return self.value(node if truth_of(self.value(condition)) else otherwise)

    def get_negative(self, node: Node) -> int:
        """-X."""
        return -_integer(self.value(node))

    def get_concatenate(self, nodes: list[Node]) -> str:
        """X ~ Y."""
        text = ""
        for node in nodes:
            text = checked(text + text_of(self.value(node)))
        return text

    def get_operator(self, sign: str, left: Node, right: Node) -> Any:
        """X + Y of texts, lists or integers; the other signs of integers."""
        one, other = self.value(left), self.value(right)
        if sign == "+" and type(one) is type(other) and isinstance(one, (str, list)):
            return checked(one + other)
        if sign not in _SIGNS:
            raise UnknownTemplate(f"the sign {sign!r} is not known")
        if sign in ("//", "%") and other == 0:
            raise UnknownTemplate("it divides by zero")
        return checked(_SIGNS[sign](_integer(one), _integer(other)))

    def get_compare(self, first: Node, operands: list[tuple[str, Node]]) -> bool:
        """X == Y < Z: true if each pair of neighbours meets its sign."""
        left = self.value(first)
        for sign, node in operands:
            right = self.value(node)
            if not TESTS[sign](left, right):
                return False
            left = right
        return True

    def get_attribute(self, node: Node, name: str) -> Any:
        """X.name: a method of a text or a dictionary, or an item."""
        value = self.value(node)
        if name.startswith("_"):
            raise UnknownTemplate(f"the attribute {name} is not known")
        if isinstance(value, Namespace):
            return value.get(name)
        if isinstance(value, (str, dict)) and hasattr(value, name):
            if name not in METHODS:
                raise UnknownTemplate(f"the method {name} is not known")
            return lambda *arguments: METHODS[name](value, *arguments)
        if isinstance(value, dict):
            return value.get(name, UNDEFINED)
        if value is None or isinstance(value, str):
            return UNDEFINED
        raise UnknownTemplate(f"the attribute {name} of {type(value).__name__} is not known")

    def get_item(self, node: Node, key: Node) -> Any:
        """X[key] of a dictionary, a list or a text."""
        value, index = self.value(node), self.value(key)
        if isinstance(value, dict) and isinstance(index, str):
            if index not in value and hasattr(value, index):
                raise UnknownTemplate(f"the method {index} is not known")
            return value.get(index, UNDEFINED)
        if isinstance(value, (list, str)) and type(index) is int:
            return value[index] if -len(value) <= index < len(value) else UNDEFINED
        raise UnknownTemplate(f"an item of {type(value).__name__} is not known")

    def get_slice(self, node: Node, parts: list[Node | None]) -> Any:
        """X[start:stop:step] of a list or a text."""
        value = self.value(node)
        bounds = [None if part is None else self.value(part) for part in parts]
        whole = [bound for bound in bounds if bound is not None]
        if not isinstance(value, (list, str)) or 0 in whole[2:]:
            raise UnknownTemplate(f"a part of {type(value).__name__} is not known")
        return value[slice(*[None if bound is None else _integer(bound) for bound in bounds])]

    def get_filter(self, node: Node, name: str, arguments: Any, named: Any) -> Any:
        """X | name(arguments)."""
        if name not in FILTERS:
            raise UnknownTemplate(f"the filter {name!r} is not known")
        return checked(_called(FILTERS[name], self.value(node), *self.arguments(arguments, named)))

    def get_test(self, node: Node, name: str, arguments: Any, named: Any) -> bool:
        """X is name(arguments)."""
        if name not in TESTS or named:
            raise UnknownTemplate(f"the test {name!r} is not known")
        return bool(_called(TESTS[name], self.value(node), *self.arguments(arguments, named)))

    def get_call(self, node: Node, arguments: list[Node], named: dict[str, Node]) -> Any:
        """X(arguments)."""
        function = self.value(node)
        if not callable(function):
            raise UnknownTemplate(f"a call of {type(function).__name__} is not known")
        values, named_values = self.arguments(arguments, named)
        try:
            return checked(function(*values, **named_values))
        except (TypeError, ValueError) as error:
            raise UnknownTemplate(f"a call is not known ({error})") from None

    def arguments(
        self, arguments: list[Node], named: dict[str, Node]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The values of arguments."""
        return (
            [self.value(argument) for argument in arguments],
            {name: self.value(argument) for name, argument in named.items()},
        )

    def call_namespace(self, **values: object) -> Namespace:
        """namespace(NAME=X)."""
        return Namespace(values)

    def call_range(self, *bounds: object) -> list[int]:
        """range(stop) and range(start, stop)."""
        numbers = range(*[_integer(bound) for bound in bounds])
        if len(numbers) > 1000:
            raise UnknownTemplate("range() has more than 1000 numbers")
        return list(numbers)

    def call_raise_exception(self, message: object) -> None:
        """The template refuses the conversation."""
        raise UnknownTemplate(f"it raises the exception {text_of(message)!r}")

    def call_strftime_now(self, _format: object) -> None:
        """Today's date: the prompt would change every day."""
        raise UnknownTemplate("it writes today's date")


_SIGNS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


def _called(function: Any, value: object, arguments: list[Any], named: dict[str, Any]) -> Any:
    """The result of a filter or a test."""
    try:
        return function(value, *arguments, **named)
    except (TypeError, ValueError) as error:
        raise UnknownTemplate(f"a filter or a test is not known ({error})") from None


def _integer(value: object) -> int:
    """The value, which must be an integer."""
    if type(value) is not int:
        raise UnknownTemplate(f"arithmetic with {type(value).__name__} is not known")
    return value
