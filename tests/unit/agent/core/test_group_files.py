"""Limits are written into the files of those controllers that there are, in the kernel's format."""

import pytest

from milkyway_agent.core.group_files import group_files
from milkyway_formats.service import Limits

ALL = frozenset({"memory", "pids", "cpu", "io"})


def test_what_is_not_limited_is_left_as_the_kernel_has_it() -> None:
    assert group_files(Limits(pids=0), ALL) == {}


@pytest.mark.parametrize(
    ("limits", "controller", "file", "value"),
    [
        (Limits(pids=0, memory_bytes=1 << 26), "memory", "memory.max", "67108864"),
        (Limits(pids=0, memory_high_bytes=1 << 25), "memory", "memory.high", "33554432"),
        (Limits(pids=9), "pids", "pids.max", "9"),
        (Limits(pids=0, cpu_weight=50), "cpu", "cpu.weight", "50"),
        (Limits(pids=0, cpu_percent=150), "cpu", "cpu.max", "150000 100000"),  # 150 ms in each 100: one and a half processors
        (Limits(pids=0, io_weight=50), "io", "io.weight", "default 50"),
    ],
)
def test_each_limit_has_its_file_where_there_is_its_controller(limits: Limits, controller: str, file: str, value: str) -> None:
    assert group_files(limits, ALL) == {file: value}
    assert group_files(limits, ALL - {controller}) == {}
