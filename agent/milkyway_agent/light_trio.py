"""trio without TLS: imported before trio by the two programs that stay for ever, PID 1 and the supervisor.

trio's own ``__init__`` imports its TLS and DTLS, and with them ssl, hmac and OpenSSL: 5 MiB of a process that speaks
to nobody. They are replaced by modules of empty names while trio is imported. Whoever uses one of these names has
made a mistake, and whoever imports ssl afterwards gets the real one.
"""

import sys
from types import ModuleType

_UNUSED = ("trio._dtls", "trio._ssl", "trio._highlevel_ssl_helpers")


class _Nothing(ModuleType):
    """A module in which every name is a class that can't be made use of."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__module__": self.__name__, "__doc__": "Left out by milkyway_agent.light_trio."})


def _import() -> None:
    if "trio" in sys.modules:
        return
    has_ssl = "ssl" in sys.modules
    for name in (*_UNUSED, *(() if has_ssl else ("ssl",))):
        sys.modules[name] = _Nothing(name)
    import trio  # noqa: F401 (imported for what it leaves in sys.modules)

    if not has_ssl:
        del sys.modules["ssl"]


_import()
