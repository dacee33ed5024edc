"""The methods, filters and tests of a chat template.

source  jinja2 3.1.6, filters.py, tests.py; Python's methods of str and dict
"""

from collections.abc import Callable
from typing import Any

from .jinja_tokens import UnknownTemplate
from .jinja_values import MOST, UNDEFINED, items_of, length_of, text_of, truth_of


def _string(value: object) -> str:
    """The value, which must be a text."""
    if not isinstance(value, str):
        raise UnknownTemplate(f"a method of text is called for {type(value).__name__}")
    return value


def _mapping(value: object) -> dict[str, Any]:
    """The value, which must be a dictionary."""
    if not isinstance(value, dict):
        raise UnknownTemplate(f"a method of a dictionary is called for {type(value).__name__}")
    return value


def _replace(value: object, old: str, new: str) -> str:
    """The text with every `old` replaced."""
    text = text_of(value)
    if len(text) * (len(_string(new)) + 1) > MOST:
        raise UnknownTemplate("replace() may write too much")
    return text.replace(_string(old), new)


def _split(value: object, separator: str | None = None) -> list[str]:
    """The parts of a text between separators."""
    return _string(value).split(separator)


METHODS: dict[str, Callable[..., Any]] = {
    "strip": lambda value, *signs: _string(value).strip(*signs),
    "lstrip": lambda value, *signs: _string(value).lstrip(*signs),
    "rstrip": lambda value, *signs: _string(value).rstrip(*signs),
    "upper": lambda value: _string(value).upper(),
    "lower": lambda value: _string(value).lower(),
    "title": lambda value: _string(value).title(),
    "capitalize": lambda value: _string(value).capitalize(),
    "startswith": lambda value, start: _string(value).startswith(_string(start)),
    "endswith": lambda value, end: _string(value).endswith(_string(end)),
    "replace": lambda value, old, new: _replace(_string(value), old, new),
    "split": _split,
    "items": lambda value: [[key, each] for key, each in _mapping(value).items()],
    "keys": lambda value: list(_mapping(value)),
    "values": lambda value: list(_mapping(value).values()),
    "get": lambda value, key, default=None: _mapping(value).get(_string(key), default),
}


def _simple(value: object) -> object:
    """The value, if it is no list and no dictionary: their comparison has no bound."""
    if value is None or isinstance(value, (str, int)):
        return value
    raise UnknownTemplate(f"a comparison with {type(value).__name__} is not known")


def _equal(left: object, right: object) -> bool:
    """X == Y; two undefined values are equal."""
    if left is UNDEFINED or right is UNDEFINED:
        return left is right
    return _simple(left) == _simple(right)


def _in(left: object, right: object) -> bool:
    """X in Y."""
    if isinstance(right, str):
        return _string(left) in right
    return any(_equal(left, item) for item in items_of(right))


def _less(left: object, right: object) -> bool:
    """X < Y of two integers."""
    if type(left) is not int or type(right) is not int:
        raise UnknownTemplate("an order of values that are not integers is not known")
    return left < right


TESTS: dict[str, Callable[..., bool]] = {
    "defined": lambda value: value is not UNDEFINED,
    "undefined": lambda value: value is UNDEFINED,
    "none": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "mapping": lambda value: isinstance(value, dict),
    "iterable": lambda value: value is UNDEFINED or isinstance(value, (str, list, dict)),
    "sequence": lambda value: value is UNDEFINED or isinstance(value, (str, list, dict)),
    "number": lambda value: isinstance(value, int),
    "integer": lambda value: type(value) is int,
    "boolean": lambda value: isinstance(value, bool),
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "equalto": _equal,
    "eq": _equal,
    "==": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "!=": lambda left, right: not _equal(left, right),
    "in": _in,
    "not in": lambda left, right: not _in(left, right),
    "<": _less,
    ">": lambda left, right: _less(right, left),
    "<=": lambda left, right: not _less(right, left),
    ">=": lambda left, right: not _less(left, right),
}


def _default(value: Any, default: Any = "", boolean: bool = False) -> Any:
    """The value; the default for an undefined one, with `boolean` for a false one too."""
    if value is UNDEFINED or (boolean and not truth_of(value)):
        return default
    return value


def _attribute(item: object, name: str) -> Any:
    """The attribute of an item of a list."""
    mapping = _mapping(item)
    if "." in _string(name) or name.isdigit() or (hasattr(dict, name) and name not in mapping):
        raise UnknownTemplate(f"the attribute {name} is not known")
    return mapping.get(name, UNDEFINED)


def _select_attribute(value: object, name: str, *test: Any) -> list[Any]:
    """The items whose attribute passes a test; without a test: whose attribute is true."""
    return [item for item in items_of(value) if _passes(_attribute(item, name), *test)]


def _reject_attribute(value: object, name: str, *test: Any) -> list[Any]:
    """The other items."""
    return [item for item in items_of(value) if not _passes(_attribute(item, name), *test)]


def _passes(value: object, name: str = "", *arguments: Any) -> bool:
    """True if a value passes the test of a name."""
    if not name:
        return truth_of(value)
    if name not in TESTS:
        raise UnknownTemplate(f"the test {name!r} is not known")
    return TESTS[name](value, *arguments)


def _map(value: object, *, attribute: str) -> list[Any]:
    """The attribute of every item."""
    return [_attribute(item, attribute) for item in items_of(value)]


def _join(value: object, separator: str = "") -> str:
    """The texts of all items, joined."""
    texts = [text_of(item) for item in items_of(value)]
    if sum(map(len, texts)) + len(texts) * len(_string(separator)) > MOST:
        raise UnknownTemplate("join() writes too much")
    return separator.join(texts)


def _trim(value: object, signs: str | None = None) -> str:
    """The text without the signs at its ends; None: without blanks."""
    return text_of(value).strip(signs)


FILTERS: dict[str, Callable[..., Any]] = {
    "trim": _trim,
    "length": length_of,
    "count": length_of,
    "upper": lambda value: text_of(value).upper(),
    "lower": lambda value: text_of(value).lower(),
    "capitalize": lambda value: text_of(value).capitalize(),
    "first": lambda value: next(iter(items_of(value)), UNDEFINED),
    "last": lambda value: next(reversed(items_of(value)), UNDEFINED),
    "list": items_of,
    "string": text_of,
    "default": _default,
    "d": _default,
    "replace": _replace,
    "join": _join,
    "items": lambda value: [] if value is UNDEFINED else METHODS["items"](value),
    "selectattr": _select_attribute,
    "rejectattr": _reject_attribute,
    "map": _map,
}
