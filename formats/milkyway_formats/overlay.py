"""What a layer's policy may say, and nothing else: text becomes an ``Overlay`` only by passing every check.

``check_overlay`` accepts six shapes of statement, over the layer's own types alone; every other statement and every
other name is refused with its line. It is the first of two independent defences: the second is the base policy's
neverallow rules, over which ``secilc`` compiles every instance. docs/reference/overlay.md is the language's reference.

What is accepted is kept as values. ``policy_instance`` writes policy from them; no byte of the layer reaches the compiler.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from milkyway_formats import cil
from milkyway_formats.cil import Expression, Node, Symbol, Text
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Grant, UseData
from milkyway_formats.policy_interface import (
    ALLOWABLE,
    CREATABLE,
    DATA_MACROS,
    GRANT_MACROS,
    INTERFACE_VERSION,
    KINDS,
    TEMPLATE_TYPES,
    Kind,
    is_reserved,
    macro_of,
)

MAX_STATEMENTS = 1000
MAX_TYPES = 32
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,64}\Z")
# Statements that people try, with the reason for refusing them; any other unknown statement gets the general refusal.
_WHY_NOT = {
    "in": "an overlay adds to no block but its own",
    "block": "an overlay is one block, which the agent names; it opens none",
    "blockinherit": "the agent alone inherits templates",
    "blockabstract": "the agent alone makes templates",
    "optional": "a policy either holds or is refused, with nothing optional",
    "typepermissive": "no domain is ever permissive",
    "macro": "macros are CoreOS' to define",
    "boolean": "there is nothing to switch at run time",
    "booleanif": "there is nothing to switch at run time",
    "tunable": "there is nothing to switch",
    "tunableif": "there is nothing to switch",
    "neverallow": "invariants are CoreOS' to state",
    "typeattribute": "an overlay declares types, no attributes",
    "typeattributeset": "an overlay joins no attribute",
    "typealias": "a type has one name",
}


class OverlayRefusedError(RefusedError):
    """The overlay says what no layer may say, or is not in its language. ``line`` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"cannot accept policy overlay: line {line}: {why}")
        self.line = line
        self.why = why


class Allow(NamedTuple):
    """*source*, a domain of the layer, has *permissions* on objects of *object_class* labelled *target*."""

    source: str
    target: str
    object_class: str
    permissions: tuple[str, ...]


class Transition(NamedTuple):
    """What *source* creates at *target* is labelled *result*: a file (called *name*, if that is not "") or a process."""

    source: str
    target: str
    object_class: str
    name: str
    result: str


class Call(NamedTuple):
    """A grant's macro called for a domain of the layer; ``data`` is the layer's name for the data, if it is about data."""

    macro: str
    domain: str
    data: str = ""


class Overlay(NamedTuple):
    """A checked overlay. ``types`` holds only the declared types, not the template's."""

    types: Mapping[str, Kind] = {}
    allows: tuple[Allow, ...] = ()
    transitions: tuple[Transition, ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """The layer's own domains, ``process`` first."""
        return ("process", *(name for name, kind in self.types.items() if kind == "domain"))


def check_overlay(source: bytes, *, grants: Collection[Grant]) -> Overlay:
    """Return the overlay that *source* is, for a deployment that holds *grants*. Raises OverlayRefusedError.

    Checks, in this order: size, characters, brackets and nesting; each statement is one of the six; number of types;
    names of types; each type has one kind; for every statement: its shape, that its names are the layer's own, that its
    permissions are in the closed set, that its macro is exported and its grant held.
    """
    try:
        statements = cil.parse(source)
    except cil.CilRefusedError as error:
        raise OverlayRefusedError(error.line, error.why) from error
    if len(statements) > MAX_STATEMENTS:
        raise OverlayRefusedError(statements[MAX_STATEMENTS].line, f"more than {MAX_STATEMENTS} statements")
    reader = _Reader(grants)
    for statement in statements:
        reader.declare(statement)
    reader.complete()
    for statement in statements:
        reader.relate(statement)
    return Overlay(reader.types, tuple(reader.allows), tuple(reader.transitions.values()), tuple(reader.calls))


class _Reader:
    """Collects all declarations first and the rules second, so that a name may be used before its declaration."""

    def __init__(self, grants: Collection[Grant]) -> None:
        self.held = {macro_of(grant) for grant in grants if not isinstance(grant, UseData)}
        self.data = {(macro_of(grant), grant.name) for grant in grants if isinstance(grant, UseData)}
        # A grant to write includes reading.
        self.data |= {("data_read", name) for macro, name in self.data if macro == "data_write"}
        self.declared: dict[str, int] = {}
        self.types: dict[str, Kind] = {}
        self.allows: list[Allow] = []
        self.transitions: dict[tuple[str, str, str, str], Transition] = {}
        self.calls: list[Call] = []

    # --- declarations ------------------------------------------------------------------------------------------------

    def declare(self, statement: Expression) -> None:
        """Record a type, or the kind of a type."""
        keyword = _keyword(statement)
        if keyword == "type":
            self._declare_type(statement)
        elif keyword == "call":
            macro, arguments = _call(statement)
            for kind in KINDS:
                if macro == kind:
                    self._declare_kind(statement, kind, arguments)
        elif keyword not in ("allow", "typetransition"):
            raise OverlayRefusedError(
                statement.line,
                f"{keyword!r} is not a statement of overlays"
                + (f": {_WHY_NOT[keyword]}" if keyword in _WHY_NOT else "; these are: type, call, allow, typetransition"),
            )

    def _declare_type(self, statement: Expression) -> None:
        _, *rest = statement.items
        if len(rest) != 1:
            raise OverlayRefusedError(statement.line, "a type is declared as (type NAME)")
        name = _name(rest[0])
        if is_reserved(name):
            raise OverlayRefusedError(statement.line, f"{name!r} is, or may become, a name of CoreOS' own policy")
        if not _NAME.match(name):
            raise OverlayRefusedError(
                statement.line, f"{name!r} is not a name for a type: up to 32 of a-z, 0-9 and '_', a letter first"
            )
        if name in self.declared:
            raise OverlayRefusedError(statement.line, f"type {name!r} is declared twice")
        if len(self.declared) == MAX_TYPES:
            raise OverlayRefusedError(statement.line, f"more than {MAX_TYPES} types")
        self.declared[name] = statement.line

    def _declare_kind(self, statement: Expression, kind: Kind, arguments: tuple[Node, ...]) -> None:
        if len(arguments) != 1:
            raise OverlayRefusedError(statement.line, f"a kind is given as (call {kind} (NAME))")
        name = _name(arguments[0])
        if name in self.types:
            raise OverlayRefusedError(statement.line, f"type {name!r} has a kind already: {self.types[name]}")
        if name in TEMPLATE_TYPES:
            raise OverlayRefusedError(statement.line, f"type {name!r} has a kind already: {TEMPLATE_TYPES[name]}")
        self.types[name] = kind
        self.declared.setdefault(name, -statement.line)

    def complete(self) -> None:
        """Check that the types declared and the types given a kind are the same."""
        for name, line in self.declared.items():
            if line < 0:
                raise OverlayRefusedError(-line, f"{name!r} is not a type of this layer")
            if name not in self.types:
                raise OverlayRefusedError(line, f"type {name!r} has no kind; one of {', '.join(KINDS)} must be called for it")

    # --- rules -------------------------------------------------------------------------------------------------------

    def relate(self, statement: Expression) -> None:
        """Record a rule, a transition or the use of a grant."""
        match _keyword(statement):
            case "allow":
                self._allow(statement)
            case "typetransition":
                self._transition(statement)
            case "call":
                self._use_grant(statement)
            case _:
                pass  # a declaration

    def _kind(self, node: Node) -> tuple[str, Kind]:
        name = _name(node)
        kind = self.types.get(name) or TEMPLATE_TYPES.get(name)
        if kind is None:
            raise OverlayRefusedError(node.line, f"{name!r} is not a type of this layer")
        return name, kind

    def _domain(self, node: Node) -> str:
        name, kind = self._kind(node)
        if kind != "domain":
            raise OverlayRefusedError(node.line, f"{name!r} is not a domain of this layer but has the kind {kind}")
        return name

    def _allow(self, statement: Expression) -> None:
        match statement.items:
            case (_, Symbol() as source, Symbol() as target, Expression(items=(Symbol() as class_, Expression() as listed))):
                pass
            case _:
                raise OverlayRefusedError(statement.line, "a rule is written as (allow DOMAIN TYPE (CLASS (PERMISSION…)))")
        domain = self._domain(source)
        _, kind = self._kind(source if target.name == "self" else target)
        possible = ALLOWABLE[kind].get(class_.name)
        if possible is None:
            raise OverlayRefusedError(class_.line, f"an overlay has no rules about {class_.name!r} of kind {kind}")
        permissions = [_name(item) for item in listed.items]
        if not permissions:
            raise OverlayRefusedError(statement.line, "a rule allows at least one permission")
        for permission in permissions:
            if permission not in possible:
                raise OverlayRefusedError(
                    listed.line, f"{permission!r} on {class_.name!r} of kind {kind} is not an overlay's to allow"
                )
        self.allows.append(Allow(domain, target.name, class_.name, tuple(dict.fromkeys(permissions))))

    def _transition(self, statement: Expression) -> None:
        match statement.items:
            case (_, Symbol() as source, Symbol() as target, Symbol() as class_, Symbol() as result):
                file_name = ""
            case (_, Symbol() as source, Symbol() as target, Symbol() as class_, Text(value=file_name), Symbol() as result):
                if not _FILE_NAME.match(file_name):
                    raise OverlayRefusedError(statement.line, f"{file_name!r} is not a plain file name")
            case _:
                raise OverlayRefusedError(
                    statement.line, 'a transition is written as (typetransition DOMAIN TYPE CLASS ["FILE NAME"] TYPE)'
                )
        domain = self._domain(source)
        at, at_kind = self._kind(target)
        to, to_kind = self._kind(result)
        if class_.name == "process":
            fits = at_kind == "exec_type" and to_kind == "domain" and not file_name
        else:
            fits = at_kind in ("tmp_type", "sock_type") and to_kind in CREATABLE.get(class_.name, ())
        if not fits:
            raise OverlayRefusedError(
                statement.line, f"nothing of class {class_.name!r} created at kind {at_kind} can become kind {to_kind}"
            )
        key = (domain, at, class_.name, file_name)
        if key in self.transitions:
            raise OverlayRefusedError(
                statement.line, f"there is a transition from {domain!r} at {at!r} for {class_.name!r} already"
            )
        self.transitions[key] = Transition(domain, at, class_.name, file_name, to)

    def _use_grant(self, statement: Expression) -> None:
        macro, arguments = _call(statement)
        if macro in KINDS:
            return
        if macro not in GRANT_MACROS:
            raise OverlayRefusedError(statement.line, f"interface {INTERFACE_VERSION} of CoreOS exports no macro {macro!r}")
        if macro in DATA_MACROS:
            if len(arguments) != 2:
                raise OverlayRefusedError(statement.line, f"data is used as (call {macro} (DOMAIN DATA))")
            call = Call(macro, self._domain(arguments[0]), _name(arguments[1]))
            held = (macro, call.data) in self.data
        else:
            if len(arguments) != 1:
                raise OverlayRefusedError(statement.line, f"a grant is used as (call {macro} (DOMAIN))")
            call = Call(macro, self._domain(arguments[0]))
            held = macro in self.held
        if not held:
            of_data = f" of {call.data!r}" if call.data else ""
            raise OverlayRefusedError(statement.line, f"the deployment holds no grant for {macro!r}{of_data}")
        if call not in self.calls:
            self.calls.append(call)


def _keyword(statement: Expression) -> str:
    if not statement.items or not isinstance(statement.items[0], Symbol):
        raise OverlayRefusedError(statement.line, "a statement begins with its keyword")
    return statement.items[0].name


def _call(statement: Expression) -> tuple[str, tuple[Node, ...]]:
    match statement.items:
        case (_, Symbol(name=macro), Expression(items=arguments)):
            return macro, arguments
        case _:
            raise OverlayRefusedError(statement.line, "a macro is called as (call NAME (ARGUMENT…))")


def _name(node: Node) -> str:
    if not isinstance(node, Symbol):
        raise OverlayRefusedError(node.line, "a name is expected here, not a list or a string")
    return node.name
