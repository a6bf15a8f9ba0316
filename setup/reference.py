"""Write docs/reference from the types themselves, so that it cannot differ from the code.

Fields, constraints and defaults come from the types, the words from their docstrings and from the
descriptions of their names. ``pages`` is pure; ``main`` writes the pages, or only compares them with --check.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
SOURCE = "<!-- written by setup/reference.py from the types; change those -->"


class Page(NamedTuple):
    """A file: its title, the documents it begins with, and the modules whose types it describes."""

    name: str
    title: str
    roots: tuple[str, ...]
    modules: tuple[str, ...]


PAGES = (
    Page(
        "manifest",
        "The manifest of a layer",
        ("milkyway_formats.manifest:Manifest",),
        ("milkyway_formats.manifest", "milkyway_formats.grants"),
    ),
    Page(
        "service",
        "The service",
        ("milkyway_formats.service:Service",),
        ("milkyway_formats.service", "milkyway_formats.execution", "milkyway_formats.listener", "milkyway_formats.timer"),
    ),
    Page("image-spec", "The image spec", ("milkyway_layers.spec:ImageSpec",), ("milkyway_layers.spec",)),
    Page(
        "deployment-descriptor",
        "The deployment descriptor, and the deployment that it becomes",
        ("milkyway_formats.deployment:DeploymentDescriptor", "milkyway_formats.deployment:Deployment"),
        ("milkyway_formats.deployment",),
    ),
    Page("desired-state", "The desired-state document", ("milkyway_formats.desired:Desired",), ("milkyway_formats.desired",)),
    Page("command", "The command", ("milkyway_formats.command:Command",), ("milkyway_formats.command",)),
    Page(
        "report",
        "The report and the status",
        ("milkyway_formats.report:Report", "milkyway_formats.report:TrustStatus"),
        ("milkyway_formats.report",),
    ),
    Page(
        "enrolment",
        "Enrolment and the machine's configuration",
        (
            "milkyway_formats.enrolment:EnrolmentRequest",
            "milkyway_formats.enrolment:EnrolmentRecord",
            "milkyway_formats.enrolment:EnrolmentReply",
            "milkyway_formats.enrolment:MachineConfiguration",
        ),
        ("milkyway_formats.enrolment",),
    ),
    Page("root", "The root document", ("milkyway_formats.root:RootDocument",), ("milkyway_formats.root",)),
    Page("envelope", "The signed envelope", ("milkyway_formats.envelope:Envelope",), ("milkyway_formats.envelope",)),
)


def pages() -> dict[str, str]:
    """Return every page's text by its file name."""
    return {f"{page.name}.md": _page(page) for page in PAGES}


def main(arguments: list[str]) -> int:
    """Write the pages; with ``--check``, write nothing and return 1 if a page is out of date."""
    stale = [name for name, text in pages().items() if not _is(REFERENCE / name, text)]
    if arguments == ["--check"]:
        for name in stale:
            print(f"docs/reference/{name} is out of date: run `python setup/reference.py`", file=sys.stderr)
        return 1 if stale else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (REFERENCE / name).write_text(pages()[name], encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def _page(page: Page) -> str:
    roots = [_type_of(root) for root in page.roots]
    prose = _text(import_module(page.modules[0]).__doc__)
    parts = [f"# {page.title}", SOURCE, *prose]
    for kind in _reachable(roots):
        if kind.__module__ in page.modules:
            parts += _section(kind, page)
    return "\n\n".join(parts) + "\n"


def _section(kind: type, page: Page) -> list[str]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    rows = [
        f"| `{field.encode_name}` | {_shape(field.type, page)} | {_default(field)} | {_meaning(field.type)} |"
        for field in info.fields
    ]
    if info.tag is not None:
        rows.insert(0, f'| `{info.tag_field}` | `"{info.tag}"` | | which of the alternatives this is |')
    table = ["| field | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)] if rows else []
    return [f"## {kind.__name__}", *_text(kind.__doc__), *table]


def _shape(kind: inspect.Type, page: Page) -> str:
    """Return *kind* as people read it, for a table's cell."""
    match kind:
        case inspect.Metadata():
            return _shape(kind.type, page)
        case inspect.StructType():
            return _link(kind.cls, page)
        case inspect.UnionType():
            return " or ".join(_shape(each, page) for each in kind.types)
        case inspect.ListType():
            return f"list of {_shape(kind.item_type, page)}{_bounds(kind.min_length, kind.max_length, 'of them')}"
        case inspect.DictType():
            names, values = _shape(kind.key_type, page), _shape(kind.value_type, page)
            return f"map of {names} to {values}{_bounds(kind.min_length, kind.max_length, 'entries')}"
        case inspect.LiteralType():
            return ", ".join(f"`{_escape(msgspec.json.encode(value).decode())}`" for value in kind.values)
        case inspect.StrType():
            pattern = f" `{_escape(kind.pattern)}`" if kind.pattern else ""
            return f"text{pattern}{_bounds(kind.min_length, kind.max_length, 'characters')}"
        case inspect.IntType():
            return f"integer{_bounds(kind.ge, kind.le)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case _:
            raise AssertionError(f"cannot describe {kind}: no word for this type")


def _bounds(least: int | float | None, most: int | float | None, what: str = "") -> str:
    unit = f" {what}" if what else ""
    if least is None and most is None:
        return ""
    if least is None:
        return f" (at most {most}{unit})"
    return f" (at least {least}{unit})" if most is None else f" ({least} to {most}{unit})"


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f"`{_escape(msgspec.json.encode(value).decode())}`" if not isinstance(value, msgspec.Struct) else "its own defaults"


def _meaning(kind: inspect.Type) -> str:
    """Return the description that the type's name has."""
    match kind:
        case inspect.Metadata():
            return _escape(str((kind.extra_json_schema or {}).get("description", ""))) or _meaning(kind.type)
        case inspect.ListType():
            inner = _meaning(kind.item_type)
            return f"each: {inner}" if inner else ""
        case inspect.UnionType():
            return "; ".join(filter(None, map(_meaning, kind.types)))
        case _:
            return ""


def _link(kind: type, page: Page) -> str:
    home = next((each for each in PAGES if kind.__module__ in each.modules), None)
    assert home is not None, f"{kind.__module__} has no page"
    return f"[{kind.__name__}]({'' if home is page else home.name + '.md'}#{kind.__name__.lower()})"


def _reachable(roots: list[type]) -> list[type]:
    """Return *roots* and every struct in them, in the order in which a reader meets them."""
    found: list[type] = []

    def visit(kind: type) -> None:
        if kind not in found:
            found.append(kind)
            info = inspect.type_info(kind)
            assert isinstance(info, inspect.StructType)
            for field in info.fields:
                for each in _structs(field.type):
                    visit(each)

    for root in roots:
        visit(root)
    return found


def _structs(kind: inspect.Type) -> Iterator[type]:
    match kind:
        case inspect.StructType():
            yield kind.cls
        case inspect.Metadata():
            yield from _structs(kind.type)
        case inspect.UnionType():
            for each in kind.types:
                yield from _structs(each)
        case inspect.ListType():
            yield from _structs(kind.item_type)
        case inspect.DictType():
            yield from _structs(kind.value_type)
        case _:
            return


def _type_of(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _text(docstring: str | None) -> list[str]:
    """Return *docstring* as Markdown paragraphs."""
    lines = [line.strip() for line in (docstring or "").strip().splitlines()]
    return ["\n".join(lines).replace("``", "`").replace("<", "\\<")]


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
