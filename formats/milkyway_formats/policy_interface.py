"""What CoreOS' policy offers to layers, version by version: the Python side of coreos/selinux/interface.cil.

A layer's overlay gives each own type one of the kinds below and relates them by permissions from closed sets; it
calls a grant's macro only for a domain of its own. A test holds this list and the CIL together.
"""

from typing import Literal

from milkyway_formats.grants import Connect, Grant, HoldCapability, Listen, UseData

INTERFACE_VERSION = 1

Kind = Literal["domain", "exec_type", "tmp_type", "sock_type"]
KINDS: tuple[Kind, ...] = ("domain", "exec_type", "tmp_type", "sock_type")
# The types that every instance has without declaring them.
TEMPLATE_TYPES: dict[str, Kind] = {"process": "domain", "stack": "exec_type", "scratch": "tmp_type"}
DATA_MACROS = ("data_read", "data_write")
GRANT_MACROS = (
    "listen_tcp", "listen_udp", "connect_tcp", "connect_udp",
    "capability_net_bind_service", "capability_chown", "capability_dac_override", "capability_fowner",
    "capability_kill", "capability_setgid", "capability_setuid", "capability_setpcap", "capability_sys_nice",
    *DATA_MACROS,
)  # fmt: skip


def _permissions(text: str) -> frozenset[str]:
    return frozenset(text.split())


_READ_ONLY = {
    "file": _permissions("getattr open read ioctl lock map execute execute_no_trans entrypoint"),
    "dir": _permissions("getattr search open read ioctl"),
    "lnk_file": _permissions("getattr read"),
}
_WRITABLE = {
    "file": _permissions("getattr setattr open read write append ioctl lock map create link unlink rename"),
    "dir": _permissions("getattr setattr search open read ioctl lock create add_name remove_name rename reparent rmdir write"),
    "lnk_file": _permissions("getattr setattr read create unlink rename"),
    "sock_file": _permissions("getattr setattr read write append open create unlink rename"),
    "fifo_file": _permissions("getattr setattr read write append open ioctl lock create unlink rename"),
}
_IPC = _permissions("getattr read write associate unix_read unix_write")
# What a layer's domain may be allowed to do, by the kind of the type acted on, then by object class.
ALLOWABLE: dict[Kind, dict[str, frozenset[str]]] = {
    "domain": {
        "process": _permissions(
            "transition sigchld sigkill sigstop signull signal getsched setsched getsession getpgid setpgid getattr"
            " getrlimit siginh rlimitinh"
        ),
        "process2": _permissions("nnp_transition nosuid_transition"),
        "fd": _permissions("use"),
        "fifo_file": _permissions("getattr open read write append ioctl lock"),
        "unix_stream_socket": _permissions("getattr read write append ioctl getopt setopt shutdown connectto"),
        "unix_dgram_socket": _permissions("getattr read write append ioctl getopt setopt shutdown sendto"),
        "sem": _IPC,
        "shm": _IPC,
        "file": _permissions("getattr open read"),
        "dir": _permissions("getattr search open read"),
        "lnk_file": _permissions("getattr read"),
    },
    "exec_type": _READ_ONLY,
    "tmp_type": _WRITABLE,
    "sock_type": {"sock_file": _WRITABLE["sock_file"], "dir": _WRITABLE["dir"]},
}
# The kinds of type that a new object may be labelled with, by its class.
CREATABLE: dict[str, tuple[Kind, ...]] = {
    "file": ("tmp_type",),
    "dir": ("tmp_type", "sock_type"),
    "lnk_file": ("tmp_type",),
    "fifo_file": ("tmp_type",),
    "sock_file": ("tmp_type", "sock_type"),
}


def macro_of(grant: Grant) -> str:
    """Return the macro that *grant* allows a layer to call."""
    match grant:
        case Listen():
            return f"listen_{grant.protocol}"
        case Connect():
            return f"connect_{grant.protocol}"
        case HoldCapability():
            return f"capability_{grant.name}"
        case UseData():
            return f"data_{grant.access}"


# Every other symbol of the base policy ends in _t, _a or _c, or begins with base_: a layer's name may do neither.
# These are the rest: keywords of CIL that stand where a name could, and what kernel.cil and object.cil declare.
RESERVED_NAMES = frozenset(
    _permissions(
        "all and or not xor eq neq dom domby incomp range self true false"
        " u r object_r s0 lowest always tree stream device block_device anything any_use Layer"
        " association bpf cap cap2 cap2_userns cap_userns capability capability2 binder dir fd file filesystem"
        " ipc key kernel_service lnk_file memprotect msg msgq netif node packet peer perf_event process2 sem"
        " security shm socket system infiniband_endport infiniband_pkey io_uring anon_inode user_namespace"
        " chr_file blk_file sock_file fifo_file"
        " kernel unlabeled init any_socket port netmsg devnull"
    )
    | set(KINDS)
    | set(GRANT_MACROS)
    | set(TEMPLATE_TYPES)
)


def is_reserved(name: str) -> bool:
    """Tell whether *name* is the base policy's, now or some day: a layer may not use it for a type of its own."""
    return (
        name in RESERVED_NAMES or name.endswith(("_t", "_a", "_c", "_socket")) or name.startswith(("base_", "data_", "unused_"))
    )
