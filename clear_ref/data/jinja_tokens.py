"""The tokens of a chat template.

source  jinja2 3.1.6, lexer.py, with trim_blocks and lstrip_blocks
"""

import re
from typing import NamedTuple

_TAG = re.compile(r"(.*?)(\{\{|\{%|\{#)([-+]?)", re.S)
_ENDS = {
    "{{": re.compile(r"-\}\}\s*|\}\}"),
    "{%": re.compile(r"\+%\}|-%\}\s*|%\}\n?"),
    "{#": re.compile(r".*?(?:\+#\}|-#\}\s*|#\}\n?)", re.S),
}
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<integer>\d+)(?![\w.])"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<string>'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\")"
    r"|(?P<sign>//|==|!=|>=|<=|[-+*/%~<>=.:|,()\[\]{}])",
    re.S,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class UnknownTemplate(Exception):
    """The template uses something that is not known here; the message says what."""


class Token(NamedTuple):
    """A token. kind: data, begin, end, name, string, integer, sign or, at the very end, stop."""

    kind: str
    value: str


def tokens_of(text: str) -> list[Token]:
    """The tokens of a template; white space around tags is removed as its signs ask."""
    text = re.sub(r"\r\n?", "\n", text).removesuffix("\n")
    tokens = []
    place = 0
    at_line_start = True
    while tag := _TAG.match(text, place):
        before, begin, sign = tag.groups()
        if sign == "-":
            before = before.rstrip()
        elif sign != "+" and begin != "{{":
            line = before.rfind("\n") + 1
            if (line or at_line_start) and before[line:].isspace():
                before = before[:line]
        tokens.append(Token("data", before))
        place = tag.end()
        if begin != "{#":
            place = _inside(text, place, begin, tokens)
        elif end := _ENDS[begin].match(text, place):
            place = end.end()
        else:
            raise UnknownTemplate("a comment has no end")
        at_line_start = text[place - 1] == "\n"
    return [*tokens, Token("data", text[place:]), Token("stop", "")]


def _inside(text: str, place: int, begin: str, tokens: list[Token]) -> int:
    """Add the tokens of one tag to `tokens`; returns the place behind the tag."""
    tokens.append(Token("begin", begin))
    expected: list[str] = []
    while True:
        end = None if expected else _ENDS[begin].match(text, place)
        if end:
            tokens.append(Token("end", begin))
            return end.end()
        token = _TOKEN.match(text, place)
        if token is None or token.lastgroup is None:
            raise UnknownTemplate(f"{text[place : place + 20]!r} is not known")
        place = token.end()
        value = token.group()
        if value in _CLOSING:
            expected.append(_CLOSING[value])
        elif value in (")", "]", "}") and (not expected or expected.pop() != value):
            raise UnknownTemplate(f"{value!r} closes nothing")
        if token.lastgroup != "space":
            tokens.append(Token(token.lastgroup, value))


def unescaped(literal: str) -> str:
    """The value of a string in quotation marks, whose escapes are those of Python."""
    try:
        return literal[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
    except UnicodeDecodeError as error:
        raise UnknownTemplate(f"{literal[:20]} is not a string ({error.reason})") from None
