"""CIL as a tree: what is read, what is refused, and that nothing else can happen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_formats import cil
from milkyway_formats.cil import CilRefusedError, Expression, Symbol, Text


def test_keeps_lines_and_drops_comments() -> None:
    tree = cil.parse(b'; first\n(type a) ; (type b)\n\n(call m\n  ("x.sock"))\n')
    assert tree == (
        Expression(2, (Symbol(2, "type"), Symbol(2, "a"))),
        Expression(4, (Symbol(4, "call"), Symbol(4, "m"), Expression(5, (Text(5, "x.sock"),)))),
    )


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        (b"(type a", 1, "a bracket is opened here and never closed"),
        (b"(type a)\n)", 2, "a bracket closes that was not opened"),
        (b"(type a)\nstray", 2, "'stray' stands outside of brackets"),
        (b'"text"', 1, "'\"text\"' stands outside of brackets"),
        (b"(type .global)", 1, "'.global' is not a name: letters, digits, '_' and '-', a letter first"),
        (b"(type a.b)", 1, "'a.b' is not a name: letters, digits, '_' and '-', a letter first"),
        (b'\n("never ends)', 2, "a quoted string does not end on its line"),
        (b'("one\nline")', 1, "a quoted string does not end on its line"),
        (b"(type \xc3\xa4)", 1, "byte 0xc3 is not ASCII"),
        (b"\n\n(a \x00)", 3, "'\\x00' is not a name: letters, digits, '_' and '-', a letter first"),
        (b"(" * 9 + b")" * 9, 1, "brackets nested deeper than 8"),
        (b"(a)" * 6000, 1, "more than 16384 symbols and brackets"),
        (b" " * 65537, 1, "65537 bytes, at most 65536 are allowed"),
        (b"(" + b"x" * 40 + b"!)", 1, f"'{'x' * 32}…' is not a name: letters, digits, '_' and '-', a letter first"),
    ],
)
def test_refuses_with_line_and_reason(source: bytes, line: int, why: str) -> None:
    with pytest.raises(CilRefusedError) as refused:
        cil.parse(source)
    assert str(refused.value) == f"cannot read CIL: line {line}: {why}"
    assert refused.value.line == line


@given(st.binary(max_size=400) | st.text(alphabet='() ;"\nab.-\\', max_size=400).map(str.encode))
def test_ends_with_a_tree_or_a_refusal(source: bytes) -> None:
    try:
        tree = cil.parse(source)
    except CilRefusedError:
        return
    assert _without_lines(cil.parse(" ".join(map(cil.render, tree)).encode())) == _without_lines(tree)


_nodes = st.recursive(
    st.builds(Symbol, st.just(1), st.from_regex(r"\A[a-z][a-z0-9_-]{0,8}\Z"))
    | st.builds(Text, st.just(1), st.text(alphabet="ab ().;", max_size=6)),
    lambda inner: st.builds(Expression, st.just(1), st.lists(inner, max_size=4).map(tuple)),
    max_leaves=12,
).filter(lambda node: _depth(node) < cil.MAX_NESTING)


@given(st.lists(st.builds(Expression, st.just(1), st.lists(_nodes, max_size=4).map(tuple)), max_size=4))
def test_what_is_rendered_reads_back_as_it_was(tree: list[Expression]) -> None:
    assert cil.parse(" ".join(map(cil.render, tree)).encode()) == tuple(tree)


def _depth(node: cil.Node) -> int:
    return 1 + max(map(_depth, node.items), default=0) if isinstance(node, Expression) else 0


def _without_lines(nodes: tuple[cil.Node, ...]) -> list[object]:
    return [_without_lines(node.items) if isinstance(node, Expression) else node[1] for node in nodes]
