"""Seeded changes of valid files: of bytes, of JSON, of lines, of a safetensors header.

Every function takes a file's bytes and a random.Random, and returns other bytes. The same seed
gives the same bytes.
"""

import gzip
import json
import struct
from random import Random
from typing import Any

DEEP = (3, 40, 150, 900, 3000)  # brackets inside each other
LONG = (300, 5000, 60_000)  # characters
# JSON texts of single values, as a file can have them.
NUMBERS = (
    "0", "-1", "1", "2", "7", "-0.0", "0.5", "1e-30", "1e30", "1e308", "1e999", "-1e999", "NaN",
    "Infinity", "-Infinity", "2147483648", "-2147483649", "9223372036854775808", "65535", "65536",
    "16777216", "16777217", "1000000000000", "1.0", "30000", "1" * 400, "-" + "9" * 400,
    "1" * 5000, "0." + "3" * 400,
)  # fmt: skip
TEXTS = (
    '""', '" "', '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"x\\udfff"', '"\\n"', '"\\u202e"',
    '"/etc/passwd"', '"../../../../etc/passwd"', '"../x"', '"."', '"/"', '"images"',
    '"a\\nb\\u001b[2J"', '"=1+1"', '"true"', '"0"', '"nan"', '"<image>"', '"<image><image>"',
    '"</s>"', '"%s{}{0}"',
)  # fmt: skip
OTHERS = ("null", "true", "false", "[]", "{}", "[null]", "[[]]", '{"": null}', "[1]", '["a"]')
BYTES = (b"\0", b"\xff", b"\xff\xfe", b"\n", b"\r", b"{", b"[", b'"', b"\\", b"\xef\xbb\xbf", b",")
WHOLE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Literal:
    """JSON text that stands in a changed value as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


class Pairs(list):
    """The (key, value) pairs of an object; a key may be there twice."""


def literal(rng: Random) -> Literal:
    """One of the values with which readers have had trouble."""
    kind = rng.randrange(10)
    if kind < 4:
        return Literal(rng.choice(NUMBERS))
    if kind < 7:
        return Literal(rng.choice(TEXTS))
    if kind < 8:
        return Literal(rng.choice(OTHERS))
    if kind < 9:
        depth = rng.choice(DEEP)
        first, last = rng.choice((("[", "]"), ('{"a":', "}")))
        return Literal(first * depth + "1" + last * depth)
    text = rng.choice(("x", "\\n", "\\u0000", "\N{SNOWMAN}", "ab ", "\\u001b"))
    return Literal('"' + text * (rng.choice(LONG) // len(text)) + '"')


def written(value: Any) -> str:
    """A changed JSON value as text."""
    parts: list[str] = []
    left: list[Any] = [value]
    while left:
        each = left.pop()
        if isinstance(each, Literal):
            parts.append(each.text)
        elif isinstance(each, Pairs):
            inside: list[Any] = []
            for key, item in each:
                inside += [Literal(", " if inside else ""), Literal(json.dumps(key) + ": "), item]
            left += [Literal("}"), *reversed(inside), Literal("{")]
        elif isinstance(each, list):
            inside = []
            for item in each:
                inside += [Literal(", " if inside else ""), item]
            left += [Literal("]"), *reversed(inside), Literal("[")]
        else:
            parts.append(json.dumps(each))
    return "".join(parts)


def places(value: Any) -> list[tuple[Any, int]]:
    """(list or pairs, index) of everything inside a value."""
    found = []
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            for index, item in enumerate(each):
                found.append((each, index))
                left.append(item[1] if isinstance(each, Pairs) else item)
    return found


def change_once(value: Any, rng: Random) -> Any:
    """One change inside a JSON value, which is changed in place; returns the value."""
    found = places(value)
    if not found or rng.random() < 0.01:
        return literal(rng)
    # Half of the changes are near the top, where a file's own keys are.
    inside, index = rng.choice(found if rng.random() < 0.5 else found[:40])
    kind = rng.randrange(10)
    key, old = inside[index] if isinstance(inside, Pairs) else (None, inside[index])
    if kind < 5:
        new = literal(rng)
    elif kind < 6:
        del inside[index]
        return value
    elif kind < 7:
        inside.insert(rng.randrange(len(inside) + 1), inside[index])
        return value
    elif kind < 8:
        new = neighbour(old, rng)
    elif kind < 9 and isinstance(inside, Pairs):
        key = rng.choice(
            (key + "x", "", key.upper(), "a\nb", "k" * 5000, "\0", "__class__", "../k")
        )
        new = old
    else:
        source, at = rng.choice(found)
        new = source[at][1] if isinstance(source, Pairs) else source[at]
        # A copy: a value inside itself would have no end.
        copied = json.loads(written(new), object_pairs_hook=Pairs) if safe(new) else literal(rng)
        new = copied
    inside[index] = (key, new) if isinstance(inside, Pairs) else new
    return value


def safe(value: Any) -> bool:
    """True if a value holds no Literal, so that it can be copied through its text."""
    if isinstance(value, Literal):
        return False
    return not any(
        isinstance(inside[index][1] if isinstance(inside, Pairs) else inside[index], Literal)
        for inside, index in places(value)
    )


def neighbour(value: Any, rng: Random) -> Any:
    """A value like the old one: a number near it, a text cut or repeated, a list made longer."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value + 0.5))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e6, value * 1e-6, int(value), str(value)))
    if isinstance(value, str):
        return rng.choice((value[:-1], value[1:], value * 2, value * 300, value.upper(), [value]))
    if isinstance(value, Pairs):
        return rng.choice((Pairs(reversed(value)), [item for _, item in value], Pairs(value[:1])))
    if isinstance(value, list):
        return rng.choice((value * 2, value * 200, value[:1], Pairs([("0", value)])))
    return literal(rng)


def of_json(data: bytes, rng: Random) -> bytes:
    """A JSON file with one to three changes of its values."""
    value = json.loads(data, object_pairs_hook=Pairs)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = change_once(value, rng)
    return written(value).encode("utf-8", "surrogatepass")


def of_lines(data: bytes, rng: Random) -> bytes:
    """A JSON lines file with one changed line."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    kind = rng.randrange(10)
    if kind < 8:
        lines[at] = of_json(lines[at], rng)
    elif kind < 9:
        lines[at] = of_bytes(lines[at], rng)
    else:
        lines = rng.choice((lines[:at], lines + lines, [lines[at]] * 3, lines[::-1]))
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b"", b"\r\n", b"\n\n"))


def of_bytes(data: bytes, rng: Random) -> bytes:
    """Bytes with one to four changes: bits, whole numbers, parts cut, repeated, put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        # Half of the changes are in the first bytes, where headers are.
        most = len(changed) if rng.random() < 0.5 else min(len(changed), 64)
        at = rng.randrange(most + 1)
        kind = rng.randrange(8)
        if kind < 2 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind < 4:
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice(WHOLE) % 256**size
            changed[at : at + size] = number.to_bytes(size, order)
        elif kind < 5:
            del changed[at : at + rng.choice((1, 2, 8, 100, len(changed)))]
        elif kind < 6:
            changed[at:at] = changed[at : at + rng.choice((1, 4, 64, 1000))] * rng.choice((1, 50))
        elif kind < 7:
            changed[at:at] = rng.choice(BYTES) * rng.choice((1, 1, 3, 500))
        else:
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
    return bytes(changed)


def of_header(data: bytes, rng: Random) -> bytes:
    """A safetensors file with a changed header, or another claim about the header's length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(10)
    if kind < 2:
        return of_bytes(data, rng)
    if kind < 3:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 8, *WHOLE))) + data[8:]
    if kind < 4:  # values of the tensors
        return data[: 8 + length] + of_bytes(rest, rng)
    header = of_json(header, rng)
    return struct.pack("<Q", len(header)) + header + rest


def of_gzip(data: bytes, rng: Random) -> bytes:
    """A gzip'd JSON file: its JSON changed, its bytes changed, or very many blanks added."""
    kind = rng.randrange(5)
    text = gzip.decompress(data)
    if kind < 2:
        return gzip.compress(of_json(text, rng), 1, mtime=0)
    if kind < 3:
        return gzip.compress(text + b" " * rng.choice((10**6, 10**8)), 1, mtime=0)
    return of_bytes(data, rng)


# Beginnings of words of a template, a CSV file and other text.
WORDS = (
    b"{% for i in range(100000000) %}", b"{% endfor %}", b"{{ 'a' * 100000000 }}",
    b"{{ messages }}", b"{{ [0] * 99999999 }}", b"{% set x = x + x %}", b"{{ x.__class__ }}",
    b"{% if %}", b"{{", b"}}", b"{{ 9 ** 99999999 }}", b"{% endif %}", b"{{ ((((((((1)))))))) }}",
    b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", b"{{ 'a'|join('b' * 99999999) }}",
    b"{{ 1 // 0 }}", b"(" * 2000, b"=1+1", b",", b'"', b"|", b"\xff", b"\0", b"\r", b"\n", b" ",
    b"-1", b"1e999", b"nan", b"1" * 400, b"method", b"npo",
)  # fmt: skip


def of_text(data: bytes, rng: Random) -> bytes:
    """Text with words put in, lines moved, or bytes changed."""
    kind = rng.randrange(4)
    if kind < 1:
        return of_bytes(data, rng)
    if kind < 2:
        lines = data.split(b"\n")
        rng.shuffle(lines)
        return b"\n".join(lines[: rng.randrange(len(lines) + 1)])
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(WORDS) + data[at + rng.choice((0, 0, 5, 50)) :]
    return data


KINDS = {
    "bytes": of_bytes,
    "gzip": of_gzip,
    "header": of_header,
    "json": of_json,
    "lines": of_lines,
    "text": of_text,
}
