"""Values of a chat template: texts, truth, items and sizes.

source  jinja2 3.1.6, runtime.py (Undefined), utils.py (Namespace)
"""

from typing import Any

from .jinja_tokens import UnknownTemplate

# The most characters of a text and items of a list.
MOST = 20_000


class _Undefined:
    """A variable or an item that does not exist."""


UNDEFINED = _Undefined()


class Namespace:
    """Named values that a template may set; `complete`: other names are not known here."""

    def __init__(self, values: dict[str, Any], complete: bool = False) -> None:
        self.values: dict[str, Any] = {}
        self.complete = False
        for name, value in values.items():
            self.set(name, value)
        self.complete = complete

    def get(self, name: str) -> Any:
        """The value of a name."""
        if name not in self.values and self.complete:
            raise UnknownTemplate(f"loop.{name} is not known")
        return self.values.get(name, UNDEFINED)

    def set(self, name: str, value: object) -> None:
        """Give a name a value."""
        if name.startswith("_") or self.complete:
            raise UnknownTemplate(f"an attribute {name} is set")
        self.values[name] = value


def text_of(value: object) -> str:
    """The text that {{ X }} writes."""
    if value is UNDEFINED:
        return ""
    if value is None or isinstance(value, (str, int)):
        return str(value)
    raise UnknownTemplate(f"the text of {type(value).__name__} is not known")


def truth_of(value: object) -> bool:
    """True for a value that is not empty, zero, none or undefined."""
    if value is UNDEFINED:
        return False
    if value is None or isinstance(value, (str, int, list, dict)):
        return bool(value)
    raise UnknownTemplate(f"the truth of {type(value).__name__} is not known")


def items_of(value: object) -> list[Any]:
    """What a loop goes through."""
    if value is UNDEFINED:
        return []
    if isinstance(value, (list, str, dict)):
        return list(value)
    raise UnknownTemplate(f"the items of {type(value).__name__} are not known")


def length_of(value: object) -> int:
    """The number of characters or items."""
    return len(items_of(value))


def checked(value: Any) -> Any:
    """The value, if it is not too large."""
    if isinstance(value, (str, list, dict)) and len(value) > MOST:
        raise UnknownTemplate(f"a value has more than {MOST} characters or items")
    if isinstance(value, int) and abs(value) > 10**12:
        raise UnknownTemplate("a number is larger than 10 ** 12")
    return value


def unpacked(names: list[str], item: object) -> dict[str, Any]:
    """The variables of a loop for one item."""
    if len(names) == 1:
        return {names[0]: item}
    if not isinstance(item, list) or len(item) != len(names):
        raise UnknownTemplate("a loop has other names than its items")
    return dict(zip(names, item, strict=True))


def packed(names: list[str], scope: dict[str, Any]) -> Any:
    """The item that the loop's variables come from."""
    if len(names) == 1:
        return scope[names[0]]
    return [scope[name] for name in names]


def loop_variable(index: int, items: list[Any]) -> Namespace:
    """The variable `loop`."""
    return Namespace(
        {
            "index": index + 1,
            "index0": index,
            "revindex": len(items) - index,
            "revindex0": len(items) - index - 1,
            "first": index == 0,
            "last": index == len(items) - 1,
            "length": len(items),
            "previtem": items[index - 1] if index else UNDEFINED,
            "nextitem": items[index + 1] if index + 1 < len(items) else UNDEFINED,
        },
        complete=True,
    )
