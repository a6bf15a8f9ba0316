"""The seccomp profile "default" of services without a container, as the program that the kernel runs (seccomp(2)).

It prevents the same attacks as the containers' profile (``seccomp``): no mounting, tracing, keys, modules, BPF, io_uring,
setting of clocks or other namespaces, and only the four usual socket families. But it lists what is refused, not what is
allowed: such a service's program may come from anywhere, and must not fail because it is newer than this list.

Refused calls fail with EPERM; ``clone3``, whose flags a filter can't see, fails with ENOSYS, so that C libraries use
``clone``; other socket families fail with EAFNOSUPPORT. A call of another architecture (32-bit, on a 64-bit kernel) kills
its process.
"""

import struct
from collections.abc import Iterable

from milkyway_agent.launching.seccomp import ENOSYS, EPERM, FORBIDDEN

EAFNOSUPPORT = 97
# linux/sched.h: all CLONE_NEW* flags that clone(2) knows
NAMESPACE_FLAGS = 0x7E020000 | 0x00000080
# linux/socket.h: AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK (glibc's getaddrinfo lists the machine's addresses)
FAMILIES = (1, 2, 10, 16)

# linux/audit.h: AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # asm/unistd.h: __X32_SYSCALL_BIT, on x86_64 alone

# name, number on x86_64 (asm/unistd_64.h), number on aarch64 (asm-generic/unistd.h)
_NUMBERS = """
acct 163 89; add_key 248 217; adjtimex 159 171; bpf 321 280; chroot 161 51; clock_adjtime 305 266; clock_settime 227 112;
clone 56 220; clone3 435 435; delete_module 176 106; fanotify_init 300 262; finit_module 313 273; fsconfig 431 431;
fsmount 432 432; fsopen 430 430; fspick 433 433; get_mempolicy 239 236; init_module 175 105; io_uring_enter 426 426;
io_uring_register 427 427; io_uring_setup 425 425; ioperm 173 -; iopl 172 -; kcmp 312 272; kexec_file_load 320 294;
kexec_load 246 104; keyctl 250 219; lookup_dcookie 212 18; mbind 237 235; migrate_pages 256 238; mknod 133 -;
mknodat 259 33; mount 165 40; mount_setattr 442 442; move_mount 429 429; move_pages 279 239; name_to_handle_at 303 264;
nfsservctl 180 42; open_by_handle_at 304 265; open_tree 428 428; perf_event_open 298 241; personality 135 92;
pivot_root 155 41; process_madvise 440 440; process_vm_readv 310 270; process_vm_writev 311 271; ptrace 101 117;
quotactl 179 60; quotactl_fd 443 443; reboot 169 142; request_key 249 218; set_mempolicy 238 237; setdomainname 171 162;
sethostname 170 161; setns 308 268; settimeofday 164 170; socket 41 198; swapoff 168 225; swapon 167 224; syslog 103 116;
umount2 166 39; unshare 272 97; userfaultfd 323 282; vhangup 153 58
"""

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# struct seccomp_data: the call's number, its architecture, the low half of its first argument (little-endian machines)
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers on *machine* (as uname says) of the calls that the profile names; some exist on one of them only."""
    rows = (row.split() for row in _NUMBERS.split(";"))
    found = {name: (x86_64, aarch64)[machine == "aarch64"] for name, x86_64, aarch64 in rows}
    return {name: int(number) for name, number in found.items() if number != "-"}


def default_filter(machine: str) -> bytes:
    """Return the profile for *machine*, as the launcher's ``--seccomp`` takes it. Raises KeyError for unknown machines."""
    number = numbers(machine)
    refused = sorted(number[name] for name in FORBIDDEN if name in number)
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += _then(_step(_IF_AT_LEAST, _X32, 0, 1), ENOSYS)
    program += _then(_step(_IF_EQUAL, number["clone3"], 0, 1), ENOSYS)
    # For clone only the flags count, for socket only the family.
    program += [
        _step(_IF_EQUAL, number["clone"], 0, 4),
        _step(_LOAD, _ARGUMENT),
        _step(_IF_ANY_BIT, NAMESPACE_FLAGS, 1, 0),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ERRNO | EPERM),
        _step(_IF_EQUAL, number["socket"], 0, len(FAMILIES) + 3),
        _step(_LOAD, _ARGUMENT),
        *_any_of(FAMILIES),
        _step(_RETURN, _ERRNO | EAFNOSUPPORT),
        _step(_RETURN, _ALLOW),
        *_any_of(refused),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ERRNO | EPERM),
    ]
    return b"".join(program)


def _any_of(values: Iterable[int]) -> list[bytes]:
    """Return steps that skip the step after them if the loaded value is one of *values*."""
    listed = list(values)
    return [_step(_IF_EQUAL, value, len(listed) - at, 0) for at, value in enumerate(listed)]


def _then(condition: bytes, errno: int) -> list[bytes]:
    return [condition, _step(_RETURN, _ERRNO | errno)]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one struct sock_filter (linux/filter.h)."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
