"""CoreOS' own policy, compiled by the tools tree's secilc: it holds by itself, without the checker of overlays.

Each attack here is written directly into an instance, as if the checker had let it through.
"""

import re
from pathlib import Path
from typing import get_args

import pytest

from milkyway_coreos.image.policy import (
    POLICY_VERSION,
    SOURCES,
    CompiledPolicy,
    base_sources,
    compile_base,
    compile_policy,
    secilc_of,
)
from milkyway_coreos.tools import PROJECT
from milkyway_formats.deployment import DataBinding
from milkyway_formats.errors import RefusedError, UnavailableError
from milkyway_formats.grants import Capability, Connect, Grant, HoldCapability, Listen, Protocol, UseData
from milkyway_formats.overlay import Overlay, check_overlay
from milkyway_formats.policy_binary import PolicyRefusedError, check_foundation, read_head
from milkyway_formats.policy_instance import domain_types, instance
from milkyway_formats.policy_interface import ALLOWABLE, GRANT_MACROS, KINDS, TEMPLATE_TYPES, is_reserved
from milkyway_formats.policy_shared import Placed, shared

TOOLS = PROJECT / "build/tools"
SITE = DataBinding(name="content", source="site")
GRANTS: list[Grant] = [Listen(protocol="tcp", port=8080), HoldCapability(name="fowner"), UseData(name="content")]
DATABASE = instance(Overlay(), "db", 1, [])
DECLARATIONS = shared([Placed("web", 1, ("web.v1.process",), (SITE,)), Placed("db", 1, ("db.v1.process",))])

pytestmark = pytest.mark.skipif(not (TOOLS / "usr/bin/secilc").exists(), reason="no tools tree: python3 setup/prepare.py tools")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> CompiledPolicy:
    return compile_base(tmp_path_factory.mktemp("base"), tools=TOOLS)


def compile_with(cil: bytes, into: Path) -> bytes:
    """Return the policy compiled from the base and *cil*."""
    source = into / "instances.cil"
    source.write_bytes(cil)
    made = compile_policy([*base_sources(), source], into / "policy", into / "labels", secilc=secilc_of(TOOLS))
    return made.policy.read_bytes()


def smuggled(attack: str) -> bytes:
    """Return two deployments, with *attack* smuggled past the checker into the first."""
    web = instance(Overlay(), "web", 1, GRANTS, {"content": "site"})
    assert web.endswith(b"))\n")
    return DECLARATIONS + DATABASE + web[: -len(b"))\n")] + f"\n{attack}))\n".encode()


# --- its form -------------------------------------------------------------------------------------------------------------


def test_the_same_sources_give_the_same_policy(base: CompiledPolicy, tmp_path: Path) -> None:
    again = compile_base(tmp_path, tools=TOOLS)
    assert again.policy.read_bytes() == base.policy.read_bytes()
    assert again.file_contexts.read_bytes() == base.file_contexts.read_bytes()


def test_its_head_is_what_the_kernel_on_the_server_accepts(base: CompiledPolicy) -> None:
    head = read_head(base.policy.read_bytes())
    assert head.version == POLICY_VERSION
    assert head.flags == 1  # MLS; neither ALLOW_UNKNOWN nor REJECT_UNKNOWN: what it doesn't know is denied
    assert head.permissive == ()


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/usr/lib/milkyway/init", "agent_exec_t"),
        ("/usr/lib/milkyway/launch", "launch_exec_t"),
        ("/usr/lib/milkyway/dhcp", "dhcp_exec_t"),
        ("/usr/bin/crun", "launcher_exec_t"),
        (r"/usr/bin/python3\.[0-9]+", "interp_t"),
        ("/.*", "base_t"),
    ],
)
def test_labels_of_the_root_image(base: CompiledPolicy, path: str, type_: str) -> None:
    lines = [line.split() for line in base.file_contexts.read_text().splitlines()]
    assert [f"u:object_r:{type_}:s0"] == [line[-1] for line in lines if line[0] == path]


def test_no_name_of_the_base_can_be_a_layers() -> None:
    statement = re.compile(
        r"^\s*\((?:type|typeattribute|role|user|class|common|sid|sensitivity|level|levelrange|context|macro|classmap"
        r"|classpermission|block) ([^\s()]+)",
        re.MULTILINE,
    )
    names = {name for source in base_sources() for name in statement.findall(source.read_text())}
    assert len(names) > 200
    assert {name for name in names if not is_reserved(name)} == set()


def test_every_type_that_the_agent_names_exists() -> None:
    text = "".join(source.read_text() for source in base_sources())
    agent = "".join(path.read_text() for path in (PROJECT / "agent/milkyway_agent").rglob("*.py"))
    named = set(re.findall(r'"([a-z_]+_t)"', agent)) | set(re.findall(r"u:(?:r|object_r):([a-z_]+_t):", agent))
    assert {"verifier_t", "layer_store_t", "null_device_t"} <= named
    assert {name for name in named if f"(type {name})" not in text} == set()


def test_the_reference_of_overlays_tells_the_truth() -> None:
    text = (PROJECT / "docs/reference/overlay.md").read_text()
    example = text.split("## Example")[1].split("```")[1]
    assert check_overlay(example.encode(), grants=GRANTS).domains == ("process", "worker")
    for name in (*KINDS, *TEMPLATE_TYPES):
        assert f"`{name}`" in text


def test_no_type_of_the_base_looks_like_a_data_source() -> None:
    assert not re.search(r"\(type(attribute)? data_", "".join(source.read_text() for source in base_sources()))


def test_the_exported_macros_are_those_that_overlays_may_call() -> None:
    text = (SOURCES / "interface.cil").read_text()
    exported = {name for name in re.findall(r"\(macro (\w+)", text) if not name.startswith("base_")}
    assert exported == {*GRANT_MACROS, *KINDS} - {"domain"}  # which stands for .base_layer_domain
    # A name of the caller's own block would be found first: the macros name everything from the root.
    named = set(re.findall(r"(?<![.\w])\w+_[ta]\b", re.sub(r";.*", "", text)))
    assert named == set()


def test_all_that_the_checker_accepts_compiles(tmp_path: Path) -> None:
    own = {"worker": "domain", "helper": "exec_type", "spool": "tmp_type", "control": "sock_type"}
    targets = {**TEMPLATE_TYPES, **own, "self": "domain"}
    overlay = check_overlay(
        "".join(
            [
                *(f"(type {name})(call {kind} ({name}))" for name, kind in own.items()),
                *(
                    f"(allow {source} {name} ({of} ({' '.join(sorted(permissions))})))\n"
                    for source in ("process", "worker")
                    for name, kind in targets.items()
                    for of, permissions in ALLOWABLE[kind].items()  # type: ignore[index]  # kinds, by the keys above
                ),
                "(typetransition process helper process worker)(typetransition worker scratch dir spool)",
                '(typetransition worker spool sock_file "x.sock" control)',
                "(call listen_tcp (worker))(call capability_fowner (worker))(call data_read (process content))",
            ]
        ).encode(),
        grants=GRANTS,
    )
    cil = instance(overlay, "web", 1, GRANTS, {"content": "site"})
    placed = [Placed("web", 1, tuple(domain_types(overlay, "web", 1).values()), (SITE,)), Placed("db", 1, ("db.v1.process",))]
    assert b"web.v1.worker" in compile_with(shared(placed) + cil + DATABASE, tmp_path)


def test_every_grant_compiles(tmp_path: Path) -> None:
    overlay = Overlay()
    grants: list[Grant] = [of(protocol=name, port=53) for of in (Listen, Connect) for name in get_args(Protocol)]
    grants += [HoldCapability(name=name) for name in get_args(Capability)]
    compile_with(b"(block web)" + instance(overlay, "web", 1, grants), tmp_path)


def test_two_generations_and_two_deployments_of_one_layer_live_side_by_side(tmp_path: Path) -> None:
    placed = [
        Placed(name, generation, (f"{name}.v{generation}.process",)) for name, generation in (("a", 1), ("a", 2), ("b", 1))
    ]
    instances = [instance(Overlay(), placement.identifier, placement.generation, []) for placement in placed]
    policy = compile_with(shared(placed) + b"".join(instances), tmp_path)
    for name in ("a.v1.process", "a.v2.stack", "b.v1.scratch"):
        assert name.encode() in policy


# --- what it forbids, whoever wrote the rule ---------------------------------------------------------------------------------

ATTACKS = {
    "load policy": "(allow process .security_t (security (load_policy)))",
    "leave enforcing mode": "(allow .agent_t .security_t (security (setenforce)))",
    "load a module": "(allow process .module_t (system (module_load)))",
    "load a module of one's own": "(allow .agent_t scratch (system (module_load)))",
    "read the raw disk": "(allow process .disk_device_t (blk_file (open read)))",
    "have PID 1 read the raw disk": "(allow .agent_t .disk_device_t (blk_file (open read)))",
    "make a disk's node": "(allow .agent_t .loop_device_t (blk_file (create)))",
    "write /dev/mem": "(allow .agent_t self (capability (sys_rawio)))",
    "execute what is writable": "(allow process scratch (file (execute)))",
    "write what is executable": "(allow process stack (file (write)))",
    "both, through a type of one's own": "(type both) (allow process both (file (write execute)))",
    "both, as an executable type": "(type both) (typeattributeset .executable_a both) (allow process both (file (write)))",
    "make code in memory": "(allow process self (process (execmem)))",
    "have PID 1 run a shell": "(allow .agent_t .base_t (file (execute_no_trans)))",
    "have PID 1 run the bare interpreter": "(allow .agent_t .interp_t (file (execute_no_trans)))",
    "have the launcher run a layer's program": "(allow .launcher_t stack (file (execute_no_trans)))",
    "enter PID 1's domain": "(allow process .agent_t (process (transition)))",
    "enter a service's domain": "(allow process .verifier_t (process (transition)))",
    "enter the kernel's domain": "(allow .launch_t .kernel_t (process (transition)))",
    "trace PID 1": "(allow .console_t .agent_t (process (ptrace)))",
    "read /proc of PID 1": "(allow process .agent_t (file (open read)))",
    "signal PID 1": "(allow process .agent_t (process (sigkill)))",
    "connect to PID 1": "(allow process .agent_t (unix_stream_socket (connectto)))",
    "use mwctl's socket": "(allow process .mwctl_sock_t (sock_file (write)))",
    "read secure-config": "(allow process .secure_config_t (file (open read)))",
    "have PID 1 read secure data": "(allow .agent_t .data_site (file (open read)))",
    "have PID 1 read them, as files of its own": "(typeattributeset .agent_files_a .data_site)",
    "read another's secure data": "(allow .db.v1.process .data_site (file (read)))",
    "read another deployment": "(allow process .db.v1.scratch (file (open read)))",
    "signal another deployment": "(allow process .db.v1.process (process (signal)))",
    "be read by another deployment": "(allow .db.v1.process stack (file (read)))",
    "read what was declared one's own": "(typeattributeset own_a .trust_t) (allow process .trust_t (file (read)))",
    "be a service of CoreOS": "(typeattributeset .service_a process)",
    "use a capability without a grant": "(allow process self (capability (chown)))",
    "load BPF": "(allow process self (bpf (prog_load)))",
    "use io_uring": "(allow process self (io_uring (sqpoll)))",
    "make a user namespace": "(allow process self (user_namespace (create)))",
    "hear all packets": "(allow process self (packet_socket (create)))",
    "change addresses": "(allow process self (netlink_route_socket (nlmsg_write)))",
    "mount": "(allow process .tmpfs_t (filesystem (mount)))",
    "have the uplink read trust": "(allow .uplink_t .trust_t (file (read)))",
    "have the uplink read a layer on its way": "(allow .uplink_t .staging_t (file (open)))",
    "have the uplink write logs": "(allow .uplink_t .log_t (file (append)))",
    "have the uplink hold a capability": "(allow .uplink_t self (capability (net_admin)))",
    "give the verifier a network": "(allow .verifier_t self (tcp_socket (create)))",
}


def test_the_attacks_are_what_fails(tmp_path: Path) -> None:
    assert compile_with(smuggled("(allow process scratch (file (read)))"), tmp_path)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_rule_lets_anybody(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"^cannot compile the policy: neverallow check failed at "):
        compile_with(smuggled(ATTACKS[name]), tmp_path)
    assert not (tmp_path / "policy").exists()


def test_a_permissive_domain_passes_every_neverallow_and_is_seen_in_the_head(base: CompiledPolicy, tmp_path: Path) -> None:
    ours = base.policy.read_bytes()
    check_foundation(compile_with(smuggled(""), tmp_path), ours)
    with pytest.raises(PolicyRefusedError) as refused:
        check_foundation(compile_with(smuggled("(typepermissive process)"), tmp_path), ours)
    assert str(refused.value) == "cannot load policy: it makes a domain permissive"


def test_a_looser_head_is_refused(base: CompiledPolicy, tmp_path: Path) -> None:
    ours = base.policy.read_bytes()
    with pytest.raises(PolicyRefusedError) as refused:
        check_foundation(compile_with(b"(policycap always_check_network)", tmp_path), ours)
    assert str(refused.value) == "cannot load policy: its capabilities differ from CoreOS' own policy"
    for damaged, why in (
        (b"", "it ends in its head"),
        (b"\0" * 64, "it does not begin like one"),
        (ours[:40], "it ends in its head"),
        (ours[:40] + b"\xff" * 12, "4294967295 ranges in a set of its head"),
    ):
        with pytest.raises(PolicyRefusedError) as refused:
            read_head(damaged)
        assert str(refused.value) == f"cannot read compiled policy: {why}"


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as missing:
        secilc_of(tmp_path)
    assert str(missing.value) == f"cannot compile the policy: {tmp_path} has no secilc"
    with pytest.raises(UnavailableError, match="no .cil files in"):
        base_sources(tmp_path)
