"""The C library's door: one call, and errno becomes the OSError that Python itself would raise.

The modules beside this one say what each call means; nothing else calls ``call``.
"""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: int | bytes | None, path: str | None = None) -> int:
    """Call *function* of the C library and return what it returns. Raises OSError (with *path*) where it returns -1."""
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    ctypes.set_errno(0)
    result: int = getattr(_libc, function)(*converted)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
