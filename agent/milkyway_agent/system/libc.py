"""Calls of the C library: errno becomes the OSError that Python itself would raise.

The other modules of this room say what each call means; only they use ``call``.
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: int | bytes | None, path: str | None = None) -> int:
    """Call *function* of the C library and return its result. Raises OSError (with *path*) if that is -1."""
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    ctypes.set_errno(0)
    result: int = getattr(_libc, function)(*converted)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
