"""YAML that people write, read as strictly as a signed document is.

``load`` turns a text into a typed document and names the line of what it refuses. Only
the unsurprising part of YAML is read: mappings, lists and plain values. Duplicate keys,
aliases, tags and a second document are refused; plain words mean what they look like
(``on`` and ``1.10`` are strings, only ``true`` is true, ``0644`` is a string, ``0o644`` a number).
Nothing outside the text is read.
"""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
import yaml

from milkyway_formats.codec import MalformedError

MAX_TEXT = 256 * 1024

T = TypeVar("T")

_BOOL, _NULL, _INT, _STR, _MAP, _SEQ = (f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "int", "str", "map", "seq"))
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


class _RefusedAtError(Exception):
    """A reason and the line (counted from 0) that it is about; never leaves this module."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Composes nodes with their lines; knows true, false, null and decimal integers, and no alias."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (pyyaml's own name and way)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; refuse an alias, which can stand for a billion nodes, and a tag."""
        event = self.peek_event()  # type: ignore[no-untyped-call] # untyped in types-PyYAML
        line = event.start_mark.line if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedAtError(f"alias *{event.anchor}: write it out", line)
        if getattr(event, "tag", None) is not None:
            raise _RefusedAtError(f"tag {event.tag}: only plain values are allowed", line)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:null|)$"), ["n", ""])
_Loader.add_implicit_resolver(_INT, re.compile(r"^(?:-?(?:0|[1-9][0-9]*)|0o[0-7]+)$"), list("-0123456789"))


def load(text: str, kind: type[T], what: str) -> T:
    """Return the *kind* that *text* (YAML) describes.

    Raises MalformedError, "cannot read *what*: line N: why".
    """
    if len(text) > MAX_TEXT:
        raise MalformedError(f"cannot read {what}: {len(text)} characters, at most {MAX_TEXT} are allowed")
    try:
        node = _compose(text)
        value = _plain(node)
    except _RefusedAtError as error:
        raise MalformedError(f"cannot read {what}: line {error.line + 1}: {error}") from error
    except RecursionError as error:
        raise MalformedError(f"cannot read {what}: nested too deeply") from error
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        line = _line_of(node, str(error)) + 1
        raise MalformedError(f"cannot read {what}: line {line}: {error}") from error


def _compose(text: str) -> yaml.Node:
    """Return the root node of *text*."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _RefusedAtError(error.problem or error.context or "not YAML", mark.line if mark else 0) from error
    except yaml.YAMLError as error:
        raise _RefusedAtError(" ".join(str(error).split()), 0) from error
    if node is None:
        raise _RefusedAtError("it is empty", 0)
    return node


def _plain(node: yaml.Node) -> object:
    """Return what *node* stands for, as JSON would have it."""
    match node:
        case yaml.MappingNode():
            mapping: dict[str, object] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) and key.tag == _STR else None
                if name is None:
                    raise _RefusedAtError("a key that is not a word", key.start_mark.line)
                if name in mapping:
                    raise _RefusedAtError(f"duplicate key {name!r}", key.start_mark.line)
                mapping[name] = _plain(value)
            return mapping
        case yaml.SequenceNode():
            return [_plain(item) for item in node.value]
        case yaml.ScalarNode():
            return _scalar(node)
        case _:
            raise AssertionError(f"no such node: {node!r}")


def _scalar(node: yaml.ScalarNode) -> str | int | bool | None:
    """Return the value of one word."""
    text = str(node.value)
    if node.tag == _INT:
        if len(text) > 20:
            raise _RefusedAtError("a number too large", node.start_mark.line)
        return int(text, 0)  # 0o644 is octal (YAML 1.2.2, 10.3.2)
    if node.tag == _BOOL:
        return text == "true"
    return None if node.tag == _NULL else text


def _line_of(node: yaml.Node, message: str) -> int:
    """Return the line of the node that msgspec's *message* names (it ends "- at `$.a[0].b`"), or its nearest parent's."""
    _, found, path = message.rpartition(" - at `$")
    unknown = re.search(r"unknown field `([^`]+)`", message)
    steps: list[str] = [name or index for name, index in _STEP.findall(path.rstrip("`"))] if found else []
    for step in steps + ([unknown[1]] if unknown else []):
        child = next((value for name, value in _children(node) if name == step), None)
        if child is None:
            break
        node = child
    return int(node.start_mark.line)


def _children(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the named children of *node*: a mapping's by key, a list's by number."""
    match node:
        case yaml.MappingNode():
            yield from ((key.value, value) for key, value in node.value)
        case yaml.SequenceNode():
            yield from ((str(index), value) for index, value in enumerate(node.value))
        case _:
            return
