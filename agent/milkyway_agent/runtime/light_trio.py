"""trio, attrs and msgspec without what is not used here: imported before them by the two programs that run for ever.

Those are PID 1 and the supervisor. What they import costs memory for good, and time during which services are not looked
after (``reexecution``). trio's own ``__init__`` imports its TLS and DTLS, and with them ssl, hmac and OpenSSL: 5 MiB in a
process that uses no network; also its subprocesses, files and listeners; and to name its threads it has a program read
the linker's cache. attrs brings its validators, msgspec formats that we don't read. There are three ways to do without:

- The modules of ``_UNUSED`` are replaced by empty ones. Code that uses one of their names is wrong.
- The modules of ``_PUT_OFF`` are imported when one of their names is used: some are, late, and most never.
- ``typing_extensions`` and others have small stand-ins while trio is imported; later imports get the real modules.
"""

import ctypes
import sys
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_UNUSED = (
    "trio._dtls", "trio._ssl", "trio._highlevel_ssl_helpers", "trio._subprocess", "trio._path", "trio._file_io",
    "trio._signals", "trio._highlevel_open_tcp_listeners", "trio._highlevel_open_unix_stream",
    "trio._highlevel_serve_listeners",
)  # fmt: skip
_PUT_OFF = frozenset({
    "inspect", "tokenize", "idna", "attr.converters", "attr.filters", "attrs.converters", "attrs.filters",
    "attrs.setters", "attrs.validators", "msgspec.inspect", "msgspec.msgpack", "msgspec.toml", "msgspec.yaml",
    "msgspec._json_schema",
})  # fmt: skip


class _Nothing(ModuleType):
    """A module in which every name is a class without a use."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(
            name, (Exception,), {"__module__": self.__name__, "__doc__": "Left out by milkyway_agent.runtime.light_trio."}
        )


class _KnownLibrary(ModuleType):
    """ctypes.util that knows only where pthread_setname_np is. Where it is wrong, as with musl, trio names no thread."""

    def find_library(self, _name: str) -> str:
        """Return the C library: since glibc 2.34 no other contains it."""
        return "libc.so.6"


class _Validators(ModuleType):
    """attr.validators that checks only types: attrs' own imports inspect and what that needs."""

    @staticmethod
    def instance_of(kind: type) -> Callable[[object, Any, object], None]:
        """Return a validator that raises TypeError for a value that is not of *kind*."""

        def validate(_instance: object, attribute: Any, value: object) -> None:
            if not isinstance(value, kind):
                raise TypeError(f"{attribute.name} must be {kind!r}, not {value!r}")

        return validate


class _Logger:
    """A logger of the module logging, which is imported when there is something to log."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import logging

        return getattr(logging.getLogger(self._name), method)


class _Loggers(ModuleType):
    """The module logging, reduced to making loggers."""

    getLogger: Callable[[str], _Logger] = _Logger  # noqa: N815 (logging's name)


class _Later(ModuleType):
    """A module that is imported when one of its names is used; then this object gets all names of the real module.

    Several threads may use it at once. Each waits until the import system, which locks each module, has finished it.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # the import system checks whether it has set these
            raise AttributeError(name)
        with _TAKING_OUT:
            _needed.add(self.__name__)
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        real = import_module(self.__name__)
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


class _Loader:
    """Makes the stand-in for a module that is put off."""

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        return _Later(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Do nothing."""


class _Finder:
    """Finds the modules that are put off, before any other finder does."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec that makes *name* without running it; None if *name* is not put off, or is needed now."""
        if name not in _PUT_OFF or name in _needed:
            return None
        return ModuleSpec(name, _Loader)  # type: ignore[arg-type]  # it has all that the import system uses


_TAKING_OUT = allocate_lock()
_needed: set[str] = set()  # modules of _PUT_OFF of which a name was used


def _import() -> None:
    if "trio" in sys.modules:
        return
    stand_ins = (_Nothing("ssl"), _KnownLibrary("ctypes.util"), _Loggers("logging"), _Validators("attr.validators"))
    standard = [module for module in stand_ins if module.__name__ not in sys.modules]
    for module in (*standard, *map(_Nothing, _UNUSED)):
        sys.modules[module.__name__] = module
    ctypes.util = sys.modules["ctypes.util"]
    if has_no_extensions := "typing_extensions" not in sys.modules:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # how the import system marks what must not be found
    sys.meta_path.insert(0, _Finder)
    try:
        import msgspec  # noqa: F401 (imported for what it leaves in sys.modules)
        import trio  # noqa: F401 (as above)
    finally:
        sys.meta_path.remove(_Finder)
        for module in standard:
            del sys.modules[module.__name__]
        if has_no_extensions:
            del sys.modules["typing_extensions"]


_import()
