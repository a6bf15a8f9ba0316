"""What a layer's policy may say: a table of what it may not, each with its refusal."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkyway_formats.grants import Connect, Grant, HoldCapability, Listen, UseData
from milkyway_formats.overlay import (
    MAX_STATEMENTS,
    MAX_TYPES,
    Allow,
    Call,
    Overlay,
    OverlayRefusedError,
    Transition,
    check_overlay,
)

PROJECT = Path(__file__).resolve().parents[3]
GRANTS: list[Grant] = [
    Listen(protocol="tcp", port=8080),
    HoldCapability(name="chown"),
    UseData(name="content", access="read"),
    UseData(name="up-loads"),
]
GOOD = b"""
(type worker) (call domain (worker))
(type spool) (call tmp_type (spool))
(type control) (call sock_type (control))
(type helper) (call exec_type (helper))
(allow process spool (dir (search add_name write)))
(allow process worker (process (transition signal signal)))
(allow worker self (unix_stream_socket (connectto)))
(allow worker helper (file (entrypoint read map execute)))
(typetransition process helper process worker)
(typetransition process scratch dir spool)
(typetransition worker scratch sock_file "control.sock" control)
(call listen_tcp (worker))
(call capability_chown (process))
(call data_read (worker content))
(call data_read (process up-loads))
(call data_write (worker up-loads))
"""


def check(source: bytes) -> Overlay:
    return check_overlay(source, grants=GRANTS)


def test_reads_every_kind_of_statement() -> None:
    overlay = check(GOOD)
    assert overlay.types == {"worker": "domain", "spool": "tmp_type", "control": "sock_type", "helper": "exec_type"}
    assert overlay.domains == ("process", "worker")
    assert overlay.allows[1] == Allow("process", "worker", "process", ("transition", "signal"))
    assert overlay.allows[2].target == "self"
    assert overlay.transitions == (
        Transition("process", "helper", "process", "", "worker"),
        Transition("process", "scratch", "dir", "", "spool"),
        Transition("worker", "scratch", "sock_file", "control.sock", "control"),
    )
    assert overlay.calls == (
        Call("listen_tcp", "worker"),
        Call("capability_chown", "process"),
        Call("data_read", "worker", "content"),
        Call("data_read", "process", "up-loads"),
        Call("data_write", "worker", "up-loads"),
    )


def test_an_empty_text_is_an_overlay() -> None:
    assert check(b"; nothing to add\n") == Overlay()


def test_the_example_is_accepted_with_what_it_asks_for() -> None:
    source = (PROJECT / "examples/nginx/policy.cil").read_bytes()
    grants = (Listen(protocol="tcp", port=8080), UseData(name="notes"))
    assert check_overlay(source, grants=grants).calls == (Call("listen_tcp", "process"), Call("data_write", "process", "notes"))


NOT_A_STATEMENT = "is not a statement of overlays"
UNKNOWN = f"{NOT_A_STATEMENT}; these are: type, call, allow, typetransition"
REFUSED = {
    # Reaching out of its own block.
    "foreign type": ("(allow process secure_config_t (file (read)))", "'secure_config_t' is not a type of this layer"),
    "another deployment": (
        "(allow process db.v1.process (process (signal)))",
        "'db.v1.process' is not a name: letters, digits, '_' and '-', a letter first",
    ),
    "absolute name": (
        "(allow process .agent_t (process (ptrace)))",
        "'.agent_t' is not a name: letters, digits, '_' and '-', a letter first",
    ),
    "foreign source": ("(allow agent_t scratch (file (read)))", "'agent_t' is not a type of this layer"),
    "attribute as target": ("(allow process every_a (file (read)))", "'every_a' is not a type of this layer"),
    "a type that acts": (
        "(allow scratch stack (file (read)))",
        "'scratch' is not a domain of this layer but has the kind tmp_type",
    ),
    "in": (
        "(in system (allow process process (process (fork))))",
        f"'in' {NOT_A_STATEMENT}: an overlay adds to no block but its own",
    ),
    "block": (
        "(block db (type x))",
        f"'block' {NOT_A_STATEMENT}: an overlay is one block, which the agent names; it opens none",
    ),
    "blockinherit": ("(blockinherit Layer)", f"'blockinherit' {NOT_A_STATEMENT}: the agent alone inherits templates"),
    "foreign macro": ("(call base_program (process))", "interface 1 of CoreOS exports no macro 'base_program'"),
    "unknown macro": ("(call display (process))", "interface 1 of CoreOS exports no macro 'display'"),
    # Names of CoreOS.
    "type of CoreOS": ("(type agent_t) (call domain (agent_t))", "'agent_t' is, or may become, a name of CoreOS' own policy"),
    "macro's name": ("(type listen_tcp)", "'listen_tcp' is, or may become, a name of CoreOS' own policy"),
    "class's name": ("(type file)", "'file' is, or may become, a name of CoreOS' own policy"),
    "keyword": ("(type all)", "'all' is, or may become, a name of CoreOS' own policy"),
    "template's name": ("(type process)", "'process' is, or may become, a name of CoreOS' own policy"),
    "data's name": ("(type data_x)", "'data_x' is, or may become, a name of CoreOS' own policy"),
    "capital": ("(type Layers)", "'Layers' is not a name for a type: up to 32 of a-z, 0-9 and '_', a letter first"),
    "long name": (f"(type {'a' * 33})", f"{'a' * 33!r} is not a name for a type: up to 32 of a-z, 0-9 and '_', a letter first"),
    # Loosening what holds.
    "typepermissive": ("(typepermissive process)", f"'typepermissive' {NOT_A_STATEMENT}: no domain is ever permissive"),
    "optional": (
        "(optional o (type x))",
        f"'optional' {NOT_A_STATEMENT}: a policy either holds or is refused, with nothing optional",
    ),
    "neverallow": (
        "(neverallow process self (process (fork)))",
        f"'neverallow' {NOT_A_STATEMENT}: invariants are CoreOS' to state",
    ),
    "boolean": ("(boolean b true)", f"'boolean' {NOT_A_STATEMENT}: there is nothing to switch at run time"),
    "macro definition": (
        "(macro m ((type t)) (allow t t (file (read))))",
        f"'macro' {NOT_A_STATEMENT}: macros are CoreOS' to define",
    ),
    "joining an attribute": (
        "(typeattributeset service_a process)",
        f"'typeattributeset' {NOT_A_STATEMENT}: an overlay joins no attribute",
    ),
    "allowx": ("(allowx process scratch (ioctl file (x)))", f"'allowx' {UNKNOWN}"),
    "portcon": ("(portcon tcp http c)", f"'portcon' {UNKNOWN}"),
    "permissive of the kernel": ("(sidcontext kernel c)", f"'sidcontext' {UNKNOWN}"),
    "dontaudit": ("(dontaudit process scratch (file (read)))", f"'dontaudit' {UNKNOWN}"),
    # More than the closed sets.
    "executing what is writable": (
        "(allow process scratch (file (execute)))",
        "'execute' on 'file' of kind tmp_type is not an overlay's to allow",
    ),
    "writing what is executable": (
        "(allow process stack (file (write)))",
        "'write' on 'file' of kind exec_type is not an overlay's to allow",
    ),
    "capability": (
        "(allow process self (capability (sys_admin)))",
        "an overlay has no rules about 'capability' of kind domain",
    ),
    "ptrace": ("(allow process self (process (ptrace)))", "'ptrace' on 'process' of kind domain is not an overlay's to allow"),
    "execmem": (
        "(allow process self (process (execmem)))",
        "'execmem' on 'process' of kind domain is not an overlay's to allow",
    ),
    "sockets": ("(allow process self (tcp_socket (create)))", "an overlay has no rules about 'tcp_socket' of kind domain"),
    "all": ("(allow process scratch (file (all)))", "'all' on 'file' of kind tmp_type is not an overlay's to allow"),
    "not": ("(allow process scratch (file (not (read))))", "a name is expected here, not a list or a string"),
    "list as permission": ("(allow process scratch (file ((read))))", "a name is expected here, not a list or a string"),
    "no permission": ("(allow process scratch (file ()))", "a rule allows at least one permission"),
    "permission set by name": (
        "(allow process scratch device)",
        "a rule is written as (allow DOMAIN TYPE (CLASS (PERMISSION…)))",
    ),
    # Grants.
    "grant not held": ("(call connect_tcp (process))", "the deployment holds no grant for 'connect_tcp'"),
    "capability not held": ("(call capability_setuid (process))", "the deployment holds no grant for 'capability_setuid'"),
    "data not held": ("(call data_read (process mail))", "the deployment holds no grant for 'data_read' of 'mail'"),
    "data held for reading": (
        "(call data_write (process content))",
        "the deployment holds no grant for 'data_write' of 'content'",
    ),
    "grant for no domain": ("(call listen_tcp (scratch))", "'scratch' is not a domain of this layer but has the kind tmp_type"),
    "grant with too much": ("(call listen_tcp (process process))", "a grant is used as (call listen_tcp (DOMAIN))"),
    "data without a name": ("(call data_read (process))", "data is used as (call data_read (DOMAIN DATA))"),
    # Shapes.
    "no keyword": ("(())", "a statement begins with its keyword"),
    "empty": ("()", "a statement begins with its keyword"),
    "type without a name": ("(type)", "a type is declared as (type NAME)"),
    "type without a kind": (
        "(type x)",
        "type 'x' has no kind; one of domain, exec_type, tmp_type, sock_type must be called for it",
    ),
    "kind without a type": ("(call domain (x))", "'x' is not a type of this layer"),
    "kind of the template's": ("(call tmp_type (stack))", "type 'stack' has a kind already: exec_type"),
    "two kinds": ("(type x) (call tmp_type (x)) (call exec_type (x))", "type 'x' has a kind already: tmp_type"),
    "kind of two": ("(type x) (call tmp_type (x x))", "a kind is given as (call tmp_type (NAME))"),
    "declared twice": ("(type x) (type x) (call tmp_type (x))", "type 'x' is declared twice"),
    "call without arguments": ("(call domain)", "a macro is called as (call NAME (ARGUMENT…))"),
    "transition into CoreOS": ("(typetransition process stack process agent_t)", "'agent_t' is not a type of this layer"),
    "transition on what is writable": (
        "(typetransition process scratch process process)",
        "nothing of class 'process' created at kind tmp_type can become kind domain",
    ),
    "file that becomes code": (
        "(typetransition process scratch file stack)",
        "nothing of class 'file' created at kind tmp_type can become kind exec_type",
    ),
    "file in the stack": (
        "(typetransition process stack file scratch)",
        "nothing of class 'file' created at kind exec_type can become kind tmp_type",
    ),
    "device": (
        "(typetransition process scratch chr_file scratch)",
        "nothing of class 'chr_file' created at kind tmp_type can become kind tmp_type",
    ),
    "transition twice": (
        "(typetransition process scratch file scratch) (typetransition process scratch file scratch)",
        "there is a transition from 'process' at 'scratch' for 'file' already",
    ),
    "name of a file": ('(typetransition process scratch file "a/b" scratch)', "'a/b' is not a plain file name"),
    "transition without a result": (
        "(typetransition process scratch file)",
        'a transition is written as (typetransition DOMAIN TYPE CLASS ["FILE NAME"] TYPE)',
    ),
    "unbalanced, to end the block": (
        "(type x)) (in agent (type y)",
        "a bracket closes that was not opened",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_line_and_reason(name: str) -> None:
    statement, why = REFUSED[name]
    with pytest.raises(OverlayRefusedError) as refused:
        check(f"; a layer\n{statement}\n".encode())
    assert str(refused.value) == f"cannot accept policy overlay: line 2: {why}"


def test_refuses_too_many_bytes_statements_and_types() -> None:
    for source, why in (
        (b" " * 65537, "line 1: 65537 bytes, at most 65536 are allowed"),
        (
            b"(call listen_tcp (process))\n" * (MAX_STATEMENTS + 1),
            f"line {MAX_STATEMENTS + 1}: more than {MAX_STATEMENTS} statements",
        ),
        (
            b"".join(b"(type x%d) (call tmp_type (x%d))\n" % (number, number) for number in range(MAX_TYPES + 1)),
            f"line {MAX_TYPES + 1}: more than {MAX_TYPES} types",
        ),
    ):
        with pytest.raises(OverlayRefusedError) as refused:
            check(source)
        assert str(refused.value) == f"cannot accept policy overlay: {why}"


def test_a_grant_counts_for_its_own_protocol_and_verb_alone() -> None:
    with pytest.raises(OverlayRefusedError, match="holds no grant for 'listen_udp'"):
        check(b"(call listen_udp (process))")
    check_overlay(b"(call connect_udp (process))", grants=[Connect(protocol="udp", port=53)])


WORDS = [
    "type", "call", "allow", "typetransition", "in", "block", "process", "scratch", "stack", "self", "x", "agent_t", "domain",
    "tmp_type", "listen_tcp", "data_write", "content", "file", "dir", "read", "write", "execute", '"n"', "(", ")", "\n", ";",
]  # fmt: skip


@given(st.binary(max_size=300) | st.lists(st.sampled_from(WORDS), max_size=40).map(lambda words: " ".join(words).encode()))
def test_ends_with_an_overlay_or_a_refusal(source: bytes) -> None:
    try:
        overlay = check(source)
    except OverlayRefusedError as error:
        assert error.line >= 1
        return
    assert {rule.source for rule in overlay.allows} <= set(overlay.domains)
