"""trio without TLS and subprocesses: imported before trio by the two programs that stay for ever, PID 1 and the supervisor.

trio's own ``__init__`` imports its TLS and DTLS, and with them ssl, hmac and OpenSSL: 5 MiB of a process that speaks
to nobody. Its subprocesses and asynchronous paths are imported too, which take their time while nobody looks after services
(``reexecution``); and to name its threads it has the linker's cache read by a program. These modules are replaced by
ones of empty names while trio is imported. Whoever uses one of these names has made a mistake, and whoever imports ssl or
ctypes.util afterwards gets the real one.
"""

import ctypes
import sys
from types import ModuleType

_UNUSED = ("trio._dtls", "trio._ssl", "trio._highlevel_ssl_helpers", "trio._subprocess", "trio._path")


class _Nothing(ModuleType):
    """A module in which every name is a class that can't be made use of."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__module__": self.__name__, "__doc__": "Left out by milkyway_agent.light_trio."})


class _KnownLibrary(ModuleType):
    """ctypes.util for who asks where pthread_setname_np is. Where that is wrong, as with musl, trio names no thread."""

    def find_library(self, _name: str) -> str:
        """Return the C library: since glibc 2.34 there is no other with it."""
        return "libc.so.6"


def _import() -> None:
    if "trio" in sys.modules:
        return
    standard = [module for module in (_Nothing("ssl"), _KnownLibrary("ctypes.util")) if module.__name__ not in sys.modules]
    for module in (*standard, *map(_Nothing, _UNUSED)):
        sys.modules[module.__name__] = module
    ctypes.util = sys.modules["ctypes.util"]
    import trio  # noqa: F401 (imported for what it leaves in sys.modules)

    for module in standard:
        del sys.modules[module.__name__]


_import()
