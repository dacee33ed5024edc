"""Settings are dataclasses whose fields carry their meaning and the source of their default value."""

from dataclasses import field, fields

from .errors import UserError


def setting(default, meaning: str, source: str = "this project"):
    """A dataclass field that carries its meaning and the source of its default value."""
    return field(default=default, metadata={"meaning": meaning, "source": source})


def names(kind) -> list[str]:
    """The field names of a settings dataclass."""
    return [f.name for f in fields(kind)]


def some_of(text: str, known, option: str, words: str = "all") -> list[str]:
    """The names in "a, b", each of `known` and once; UserError says what else `option` may be: `words`."""
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if name not in known or found.count(name) > 1:
            raise UserError(
                f"{option} names {name!r}{' twice' if name in known else ''}; expected {words}, or some of: "
                + ", ".join(known)
            )
    return found


def convert(kind, name: str, text: str):
    """`text` as the type of the field's default; UserError that says what is expected."""
    known = {f.name: f for f in fields(kind)}
    if name not in known:
        raise UserError(f"unknown setting {name!r}; known: {', '.join(known)}")
    default = known[name].default
    wanted = type(default)
    try:
        return wanted(text)
    except ValueError:
        raise UserError(
            f"setting {name} is {text!r}; expected {wanted.__name__}, such as {default}"
        ) from None


def with_sources(settings, given: set[str], mini: set[str] = frozenset()) -> dict:
    """{name: {value, source}} for settings.json: the command line where a value was given there, mini where its value is."""

    def source(f):
        if f.name in given:
            return "command line"
        return "mini" if f.name in mini else f.metadata["source"]

    return {
        f.name: {"value": getattr(settings, f.name), "source": source(f)} for f in fields(settings)
    }
