"""SELinux: selinuxfs and the attributes of processes and files. Contexts are plain strings, ``u:r:agent_t:s0``."""

import os
from pathlib import Path

SELINUXFS = "/sys/fs/selinux"
XATTR = "security.selinux"


def is_enabled() -> bool:
    """Tell whether selinuxfs is mounted: without SELinux in the kernel it can't be."""
    return Path(SELINUXFS, "load").exists()


def is_enforcing() -> bool:
    """Tell whether denials are enforced."""
    return Path(SELINUXFS, "enforce").read_text() == "1"


def load_policy(policy: bytes) -> None:
    """Load the compiled *policy* into the kernel. It is a single write: the kernel takes all of it or keeps the old one."""
    opened = os.open(f"{SELINUXFS}/load", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(opened, policy)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{SELINUXFS}/load") from error
    finally:
        os.close(opened)


def getcon(pid: int | str = "self") -> str:
    """Return the context of process *pid* ("" without SELinux)."""
    try:
        return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")
    except FileNotFoundError:
        if Path(f"/proc/{pid}").exists():
            return ""
        raise
    except OSError as error:
        # EINVAL: no security module answers for this attribute.
        if error.errno == 22:
            return ""
        raise


def setfscreatecon(context: str) -> None:
    """Have the files that this thread creates labelled *context* ("": as the policy chooses)."""
    _write_attribute("fscreate", context)


def setsockcreatecon(context: str) -> None:
    """Have the sockets that this thread creates labelled *context* ("": as the policy chooses)."""
    _write_attribute("sockcreate", context)


def getfilecon(path: str) -> str:
    """Return the label of *path* itself (a symbolic link is not followed)."""
    return os.getxattr(path, XATTR, follow_symlinks=False).rstrip(b"\0").decode()


def setfilecon(path: str, context: str) -> None:
    """Label *path* itself (a symbolic link is not followed)."""
    os.setxattr(path, XATTR, context.encode() + b"\0", follow_symlinks=False)


def _write_attribute(name: str, context: str) -> None:
    path = f"/proc/thread-self/attr/{name}"
    opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(opened, context.encode() + b"\0" if context else b"\0")
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(opened)
