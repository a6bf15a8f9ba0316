"""CIL, SELinux's Common Intermediate Language, as a tree of expressions, each with its line.

``parse`` promises to end, with a tree or with CilRefusedError, whatever the bytes: sizes and nesting have
limits, and no recursion follows the input. It knows no statements; what a list means is up to the caller.
Parsing what ``render`` writes gives the same tree; whatever is not in the tree (comments, white space, the
original bytes) is not in its output.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from milkyway_formats.errors import RefusedError

MAX_BYTES = 64 * 1024
MAX_NESTING = 8
MAX_EXPRESSIONS = 16_384

# Narrower than secilc's own: a symbol with a dot, a colon or a bracket reaches into other namespaces or values.
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_TOKEN = re.compile(
    r'(?P<space>[ \t\r]+)|(?P<line>\n)|(?P<comment>;[^\n]*)|(?P<bracket>[()])|(?P<text>"[^"\n]*")|(?P<word>[^ \t\r\n;()"]+)'
)


class CilRefusedError(RefusedError):
    """The bytes are not CIL, or exceed a limit. ``line`` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"cannot read CIL: line {line}: {why}")
        self.line = line
        self.why = why


class Symbol(NamedTuple):
    """A name or keyword."""

    line: int
    name: str


class Text(NamedTuple):
    """A quoted string, without its quotes."""

    line: int
    value: str


class Expression(NamedTuple):
    """A list in brackets."""

    line: int
    items: "tuple[Node, ...]"


Node: TypeAlias = Symbol | Text | Expression


def parse(source: bytes) -> tuple[Expression, ...]:
    """Return the expressions that *source* holds, in order. Raises CilRefusedError with line and reason."""
    if len(source) > MAX_BYTES:
        raise CilRefusedError(1, f"{len(source)} bytes, at most {MAX_BYTES} are allowed")
    open_lists: list[tuple[int, list[Node]]] = [(0, [])]
    for count, (line, kind, word) in enumerate(_tokens(source), start=1):
        if count > MAX_EXPRESSIONS:
            raise CilRefusedError(line, f"more than {MAX_EXPRESSIONS} symbols and brackets")
        if word == "(":
            if len(open_lists) > MAX_NESTING:
                raise CilRefusedError(line, f"brackets nested deeper than {MAX_NESTING}")
            open_lists.append((line, []))
        elif word == ")":
            if len(open_lists) == 1:
                raise CilRefusedError(line, "a bracket closes that was not opened")
            start, items = open_lists.pop()
            open_lists[-1][1].append(Expression(start, tuple(items)))
        elif len(open_lists) == 1:
            raise CilRefusedError(line, f"{_shown(word)} stands outside of brackets")
        elif kind == "text":
            open_lists[-1][1].append(Text(line, word[1:-1]))
        elif _SYMBOL.match(word):
            open_lists[-1][1].append(Symbol(line, word))
        else:
            raise CilRefusedError(line, f"{_shown(word)} is not a name: letters, digits, '_' and '-', a letter first")
    if len(open_lists) > 1:
        raise CilRefusedError(open_lists[-1][0], "a bracket is opened here and never closed")
    return tuple(item for item in open_lists[0][1] if isinstance(item, Expression))


def render(node: Node) -> str:
    """Return *node* as CIL on one line."""
    match node:
        case Symbol():
            return node.name
        case Text():
            return f'"{node.value}"'
        case Expression():
            return f"({' '.join(render(item) for item in node.items)})"


def symbols(nodes: Iterable[Node]) -> Iterator[Symbol]:
    """Yield every symbol in *nodes*, in order."""
    for node in nodes:
        if isinstance(node, Symbol):
            yield node
        elif isinstance(node, Expression):
            yield from symbols(node.items)


def _tokens(source: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield line, kind and text of each token."""
    try:
        text = source.decode("ascii")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise CilRefusedError(line, f"byte 0x{source[error.start]:02x} is not ASCII") from None
    line, position = 1, 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise CilRefusedError(line, "a quoted string does not end on its line")
        position = found.end()
        kind = str(found.lastgroup)
        if kind == "line":
            line += 1
        elif kind not in ("space", "comment"):
            yield line, kind, found.group()


def _shown(word: str) -> str:
    return repr(word if len(word) <= 32 else f"{word[:32]}…")
