"""Sealed memory is read by whoever has it, and changed by nobody."""

import os
from pathlib import Path

import pytest

from milkyway_agent.ipc.sealed_memory import NotSealedError, check_sealed, seal


def test_sealed_memory_can_be_read_but_not_written_and_has_a_limit() -> None:
    sealed = seal(b"x" * 100, name="test")
    try:
        assert check_sealed(sealed, what="it", limit=100) == 100
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(sealed, b"y")
        with Path(f"/proc/self/fd/{sealed}").open("r+b", buffering=0) as again:
            with pytest.raises(PermissionError):
                again.write(b"y")
            with pytest.raises(PermissionError):
                again.truncate(0)
        with pytest.raises(NotSealedError, match=r"^cannot take it: 100 bytes, at most 99 are allowed$"):
            check_sealed(sealed, what="it", limit=99)
    finally:
        os.close(sealed)
