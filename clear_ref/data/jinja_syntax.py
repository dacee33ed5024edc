"""The syntax tree of a chat template: the subset of Jinja that published templates use.

A chat template comes with a model, so it is text from a stranger. It is read here and rendered in
jinja.py by code that knows no file, no network and no Python object. What it does not know is
refused.

source  jinja2 3.1.6, parser.py
"""

from typing import Any, NamedTuple

from .jinja_tokens import Token, UnknownTemplate, tokens_of, unescaped

MOST_CHARACTERS = 100_000
MOST_DEPTH = 40
_CONSTANTS = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "none": None,
    "None": None,
}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "in")
# Words that end a test without an argument, and words that jinja2 takes for its argument.
_AFTER_TEST = ("else", "or", "and")
_NO_ARGUMENT = ("if", "in", "not", "is")


class Node(NamedTuple):
    """A node of the tree; jinja.py says for each kind what its parts are."""

    kind: str
    parts: tuple[Any, ...]


def parse(text: str) -> list[Node]:
    """The statements of a template; raises UnknownTemplate."""
    if len(text) > MOST_CHARACTERS:
        raise UnknownTemplate(f"it has more than {MOST_CHARACTERS} characters")
    parser = _Parser(tokens_of(text))
    body = parser.body(())
    return body


class _Parser:
    """The tree of a list of tokens, from left to right."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        """The token at which the parser stands."""
        return self.tokens[self.place]

    def next(self) -> Token:
        """The token at which the parser stands; it goes on to the one behind it."""
        token = self.token
        self.place += 1
        return token

    def skip(self, *values: str) -> bool:
        """Go behind the next tokens if they are these names or signs; returns whether."""
        tokens = self.tokens[self.place : self.place + len(values)]
        if [token.value for token in tokens] != list(values):
            return False
        if any(token.kind not in ("name", "sign", "begin", "end") for token in tokens):
            return False
        self.place += len(values)
        return True

    def expect(self, value: str) -> None:
        """Go behind the next token, which must be this name or sign."""
        if not self.skip(value):
            raise UnknownTemplate(f"{self.token.value!r} stands where {value!r} is expected")

    def name(self) -> str:
        """The next token, which must be a name."""
        token = self.next()
        if token.kind != "name":
            raise UnknownTemplate(f"{token.value!r} stands where a name is expected")
        return token.value

    def deeper(self) -> None:
        """One level further into the tree."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise UnknownTemplate(f"it is nested more than {MOST_DEPTH} levels deep")

    def body(self, ends: tuple[str, ...]) -> list[Node]:
        """Statements up to one of the tags `ends`, at whose name the parser then stands."""
        self.deeper()
        nodes = []
        while True:
            token = self.next()
            if token.kind == "stop":
                if ends:
                    raise UnknownTemplate(f"{ends[-1]} is missing")
                break
            if token.kind == "data":
                nodes.append(Node("data", (token.value,)))
            elif token.value == "{{":
                nodes.append(Node("print", (self.expression(),)))
                self.expect("{{")
            elif self.token.kind == "name" and self.token.value in ends:
                break
            else:
                nodes.append(self.statement())
        self.depth -= 1
        return nodes

    def statement(self) -> Node:
        """The statement whose tag has just begun, its end tag included."""
        name = self.name()
        if name == "if":
            return self.if_statement()
        if name == "for":
            return self.for_statement()
        if name == "set":
            return self.set_statement()
        if name in ("break", "continue"):
            node = Node(name, ())
        elif name == "generation":
            node = Node("scope", (self.block("endgeneration"),))
        else:
            raise UnknownTemplate(f"the statement {name!r} is not known")
        self.expect("{%")
        return node

    def block(self, *ends: str) -> list[Node]:
        """The statements behind the tag that ends here, up to one of the tags `ends`."""
        self.expect("{%")
        nodes = self.body(ends)
        if len(ends) == 1:
            self.expect(ends[0])
        return nodes

    def if_statement(self) -> Node:
        """if: ([(condition, statements), ...], statements of else)."""
        cases = [(self.alternative(), self.block("elif", "else", "endif"))]
        while self.skip("elif"):
            cases.append((self.alternative(), self.block("elif", "else", "endif")))
        otherwise = self.block("endif") if self.skip("else") else self.end_of("endif")
        self.expect("{%")
        return Node("if", (cases, otherwise))

    def end_of(self, name: str) -> list[Node]:
        """No statements; the tag `name` has begun."""
        self.expect(name)
        return []

    def for_statement(self) -> Node:
        """for: (names, iterable, condition or None, statements, statements of else)."""
        names = [self.name()]
        while self.skip(","):
            names.append(self.name())
        self.expect("in")
        iterable = self.alternative()
        condition = self.expression() if self.skip("if") else None
        body = self.block("else", "endfor")
        otherwise = self.block("endfor") if self.skip("else") else self.end_of("endfor")
        self.expect("{%")
        return Node("for", (names, iterable, condition, body, otherwise))

    def set_statement(self) -> Node:
        """set: (name, attribute or None, value); set_block: (name, attribute, statements)."""
        name = self.name()
        attribute = self.name() if self.skip(".") else None
        if self.skip("="):
            node = Node("set", (name, attribute, self.expression()))
        else:
            node = Node("set_block", (name, attribute, self.block("endset")))
        self.expect("{%")
        return node

    def expression(self) -> Node:
        """An expression; X if CONDITION else Y is the loosest kind."""
        self.deeper()
        node = self.alternative()
        while self.skip("if"):
            condition = self.alternative()
            otherwise = self.expression() if self.skip("else") else Node("undefined", ())
            node = Node("choice", (condition, node, otherwise))
        self.depth -= 1
        return node

    def alternative(self) -> Node:
        """X or Y."""
        node = self.conjunction()
        while self.skip("or"):
            node = Node("or", (node, self.conjunction()))
        return node

    def conjunction(self) -> Node:
        """X and Y."""
        node = self.negation()
        while self.skip("and"):
            node = Node("and", (node, self.negation()))
        return node

    def negation(self) -> Node:
        """Not X."""
        if not self.skip("not"):
            return self.comparison()
        self.deeper()
        node = Node("not", (self.negation(),))
        self.depth -= 1
        return node

    def comparison(self) -> Node:
        """compare: (first, [(operator, operand), ...])."""
        node = self.sum()
        operands = []
        while True:
            if self.skip("not", "in"):
                operator = "not in"
            elif self.token.kind in ("name", "sign") and self.token.value in _COMPARISONS:
                operator = self.next().value
            else:
                break
            operands.append((operator, self.sum()))
        return Node("compare", (node, operands)) if operands else node

    def sum(self) -> Node:
        """X + Y and X - Y; operator: (sign, left, right)."""
        node = self.concatenation()
        while self.token.kind == "sign" and self.token.value in ("+", "-"):
            node = Node("operator", (self.next().value, node, self.concatenation()))
        return node

    def concatenation(self) -> Node:
        """X ~ Y: the texts of both, joined."""
        nodes = [self.product()]
        while self.skip("~"):
            nodes.append(self.product())
        return nodes[0] if len(nodes) == 1 else Node("concatenate", (nodes,))

    def product(self) -> Node:
        """X * Y, X // Y and X % Y."""
        node = self.filtered()
        while self.token.kind == "sign" and self.token.value in ("*", "//", "%", "/"):
            node = Node("operator", (self.next().value, node, self.filtered()))
        return node

    def filtered(self) -> Node:
        """-X, X | filter and X is test."""
        if self.skip("-"):
            node = Node("negative", (self.suffixed(self.primary()),))
        else:
            node = self.suffixed(self.primary())
        while True:
            if self.skip("|"):
                node = Node("filter", (node, self.name(), *self.optional_arguments()))
            elif self.skip("is"):
                node = self.test(node)
            elif self.token == Token("sign", "("):
                node = Node("call", (node, *self.arguments()))
            else:
                return node

    def test(self, node: Node) -> Node:
        """test: (value, name, arguments, named arguments)."""
        negative = self.skip("not")
        name = self.name()
        arguments: list[Node] = []
        named: dict[str, Node] = {}
        if self.token == Token("sign", "("):
            arguments, named = self.arguments()
        elif self.token.kind == "name" and self.token.value in _NO_ARGUMENT:
            raise UnknownTemplate(f"{self.token.value!r} stands behind the test {name!r}")
        elif self.begins_argument():
            arguments = [self.suffixed(self.primary())]
        node = Node("test", (node, name, arguments, named))
        return Node("not", (node,)) if negative else node

    def begins_argument(self) -> bool:
        """True if the next token begins a test's argument without parentheses."""
        kind, value = self.token
        if kind == "name":
            return value not in _AFTER_TEST
        return kind in ("string", "integer") or (kind == "sign" and value in ("[", "{"))

    def suffixed(self, node: Node) -> Node:
        """X.name, X[item], X[start:stop:step] and X(arguments)."""
        while True:
            if self.skip("."):
                node = Node("attribute", (node, self.name()))
            elif self.skip("["):
                node = self.subscript(node)
                self.expect("]")
            elif self.token == Token("sign", "("):
                node = Node("call", (node, *self.arguments()))
            else:
                return node

    def subscript(self, node: Node) -> Node:
        """item: (value, key); slice: (value, [start, stop, step]), each an expression or None."""
        parts: list[Node | None] = []
        current: Node | None = None
        while self.token != Token("sign", "]"):
            if self.skip(":"):
                parts.append(current)
                current = None
            elif current is None:
                current = self.expression()
            else:
                raise UnknownTemplate(f"{self.token.value!r} stands in a subscript")
        if not parts and current is not None:
            return Node("item", (node, current))
        parts.append(current)
        if not 2 <= len(parts) <= 3:
            raise UnknownTemplate("a subscript has no value or more than three")
        return Node("slice", (node, [*parts, None][:3]))

    def optional_arguments(self) -> tuple[list[Node], dict[str, Node]]:
        """The arguments of a filter, which may have none."""
        if self.token == Token("sign", "("):
            return self.arguments()
        return [], {}

    def arguments(self) -> tuple[list[Node], dict[str, Node]]:
        """(arguments, {name: named argument}) in parentheses."""
        self.expect("(")
        arguments: list[Node] = []
        named: dict[str, Node] = {}
        while not self.skip(")"):
            if arguments or named:
                self.expect(",")
                if self.skip(")"):
                    break
            name = self.token.value
            if self.token.kind == "name" and self.tokens[self.place + 1] == Token("sign", "="):
                self.place += 2
                named[name] = self.expression()
            elif named:
                raise UnknownTemplate("an argument follows a named one")
            else:
                arguments.append(self.expression())
        return arguments, named

    def primary(self) -> Node:
        """A name, a constant, a list, a dictionary, or an expression in parentheses."""
        token = self.next()
        if token.kind == "name" and token.value in _CONSTANTS:
            return Node("constant", (_CONSTANTS[token.value],))
        if token.kind == "name":
            return Node("name", (token.value,))
        if token.kind == "integer" and len(token.value) <= 9:
            return Node("constant", (int(token.value),))
        if token.kind == "string":
            values = [unescaped(token.value)]
            while self.token.kind == "string":
                values.append(unescaped(self.next().value))
            return Node("constant", ("".join(values),))
        if token == Token("sign", "("):
            node = self.expression()
            self.expect(")")
            return node
        if token == Token("sign", "["):
            return Node("list", (self.items("]"),))
        if token == Token("sign", "{"):
            return Node("dictionary", (self.items("}"),))
        raise UnknownTemplate(f"{token.value!r} stands where a value is expected")

    def items(self, end: str) -> list[Any]:
        """The items of a list, or the (key, value) pairs of a dictionary, up to its end."""
        items: list[Any] = []
        while not self.skip(end):
            if items:
                self.expect(",")
                if self.skip(end):
                    break
            item = self.expression()
            if end == "]":
                items.append(item)
            else:
                self.expect(":")
                items.append((item, self.expression()))
        return items
