"""Lines broken on purpose: every condition of a module turned round, every statement left out, one at a time."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """One break of *path*: ``text`` is the whole module with it, ``name`` says what and where, for people."""

    path: Path
    name: str
    text: str


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Return every mutant of the module *path*, in the order of its lines."""
    text = path.read_text()
    tree = ast.parse(text)
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                yield from _broken(path, text, function.name, node)


def _broken(path: Path, text: str, where: str, node: ast.AST) -> Iterator[Mutant]:
    match node:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            source = _source(text, test)
            yield _mutant(path, text, where, test, f"not ({source})", f"if not ({source})")
        case ast.comprehension(ifs=[condition]):
            source = _source(text, condition)
            yield _mutant(path, text, where, condition, f"not ({source})", f"if not ({source})")
        case ast.BoolOp(values=[first, *_]):
            # Its first part alone: what the others add must be seen by somebody.
            yield _mutant(path, text, where, node, _source(text, first), f"only {_source(text, first)}")
        case ast.Expr(value=ast.Call()) | ast.Assign() | ast.AugAssign():
            yield _mutant(path, text, where, node, "pass", f"without {_source(text, node).splitlines()[0]}")
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield _mutant(path, text, where, value, "None", f"return None, not {_source(text, value).splitlines()[0]}")
        case _:
            pass


def _mutant(path: Path, text: str, where: str, node: ast.expr | ast.stmt, instead: str, what: str) -> Mutant:
    lines = text.splitlines(keepends=True)
    begin = sum(len(line) for line in lines[: node.lineno - 1]) + _column(lines[node.lineno - 1], node.col_offset)
    assert node.end_lineno is not None and node.end_col_offset is not None, "as ast.parse gives them"
    end = sum(len(line) for line in lines[: node.end_lineno - 1]) + _column(lines[node.end_lineno - 1], node.end_col_offset)
    return Mutant(path, f"{path.stem}.{where}: {what}", text[:begin] + instead + text[end:])


def _column(line: str, offset: int) -> int:
    """Return the place in *line* of a byte *offset* (which is what ast counts in)."""
    return len(line.encode()[:offset].decode())


def _source(text: str, node: ast.expr | ast.stmt) -> str:
    found = ast.get_source_segment(text, node)
    assert found is not None, "it was parsed from that text"
    return found
