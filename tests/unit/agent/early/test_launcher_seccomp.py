"""The default seccomp profile, run by a small interpreter of its instructions."""

import re
import struct
from pathlib import Path

import pytest

from milkyway_agent.launching import seccomp, seccomp_filter
from milkyway_agent.launching.seccomp_filter import NAMESPACE_FLAGS, default_filter, numbers

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000


def run(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """Return what the filter returns for a call, as the kernel would; refuses instructions that it does not know."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("<HBBI", program))
    at = loaded = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (loaded,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += if_true if loaded == value else if_false
            case 0x35:
                at += if_true if loaded >= value else if_false
            case 0x45:
                at += if_true if loaded & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.mark.parametrize("machine", MACHINES)
def test_what_containers_may_not_do_is_refused_with_eperm(machine: str) -> None:
    program, number = default_filter(machine), numbers(machine)
    assert set(seccomp.FORBIDDEN) - set(number) == ({"ioperm", "iopl", "mknod"} if machine == "aarch64" else set())
    refused = {name for name in number if run(program, MACHINES[machine], number[name]) == ERRNO | seccomp.EPERM}
    assert refused == set(seccomp.FORBIDDEN) & set(number)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_other_call_is_allowed_even_newer_ones(machine: str) -> None:
    program, named = default_filter(machine), set(numbers(machine).values())
    others = set(range(600)) - named
    assert {run(program, MACHINES[machine], number) for number in others} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_may_clone_but_not_make_namespaces(machine: str) -> None:
    program, number = default_filter(machine), numbers(machine)
    thread, vfork = 0x3D0F00, 0x4111
    assert [run(program, MACHINES[machine], number["clone"], flags) for flags in (0, 17, thread, vfork)] == [ALLOW] * 4
    for bit in (1 << place for place in range(32) if NAMESPACE_FLAGS >> place & 1):
        assert run(program, MACHINES[machine], number["clone"], bit | thread) == ERRNO | seccomp.EPERM
    assert run(program, MACHINES[machine], number["clone3"]) == ERRNO | seccomp.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_socket_families_and_namespaces_are_those_of_containers(machine: str) -> None:
    program, number = default_filter(machine), numbers(machine)
    rules = seccomp.profile()["syscalls"]
    families = {rule["args"][0]["value"] for rule in rules if rule["names"] == ["socket"]}
    allowed = {family for family in range(64) if run(program, MACHINES[machine], number["socket"], family) == ALLOW}
    assert allowed == families
    assert run(program, MACHINES[machine], number["socket"], 38) == ERRNO | seccomp_filter.EAFNOSUPPORT
    (clone,) = (rule for rule in rules if rule["names"] == ["clone"])
    assert clone["args"][0]["value"] == NAMESPACE_FLAGS


def test_another_architecture_is_killed_and_x32_does_not_exist() -> None:
    assert run(default_filter("x86_64"), 0x40000003, 20) == KILL  # AUDIT_ARCH_I386
    assert run(default_filter("x86_64"), MACHINES["aarch64"], 0) == KILL
    assert run(default_filter("aarch64"), MACHINES["x86_64"], 0) == KILL
    assert run(default_filter("x86_64"), MACHINES["x86_64"], 0x40000000) == ERRNO | seccomp.ENOSYS
    with pytest.raises(KeyError):
        default_filter("riscv64")


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    """Compared with the headers of this machine, if it has them."""
    header = Path("/usr/include", HEADERS[machine])
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    kernels = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text()))
    ours = numbers(machine)
    assert {name: int(kernels[name]) for name in ours} == ours
