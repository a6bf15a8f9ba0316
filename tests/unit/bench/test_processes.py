"""Reading the kernel's texts about a supervisor's processes."""

import pytest

from bench.machine import is_virtual, processor
from bench.supervisor.processes import FileRange, Memory, footprint, parse_memory, parse_namespace_pids, parse_status

STATUS = """Name:\ts6-supervise
Umask:\t0022
NSpid:\t4711\t12
VmPTE:\t      44 kB
Threads:\t1
voluntary_ctxt_switches:\t27
nonvoluntary_ctxt_switches:\t3
"""
SMAPS = """55d0c0e00000-55d0c0e20000 r-xp 00002000 fe:00 917 /usr/bin/python3.11
Size:                128 kB
Rss:                 100 kB
Pss:                  25 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
55d0c0e20000-55d0c0e30000 rw-p 00022000 fe:00 917 /usr/bin/python3.11
Size:                 64 kB
Rss:                  64 kB
Pss:                  50 kB
Anonymous:            40 kB
VmFlags: rd wr mr mw me ac
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Size:               1024 kB
Rss:                 512 kB
Pss:                 500 kB
Anonymous:           512 kB
ProtectionKey:         0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
Rss:                  12 kB
Pss:                  12 kB
Anonymous:            12 kB
"""
TEXT = FileRange("fe:00", 917, 0x2000, 128)
DATA = FileRange("fe:00", 917, 0x22000, 64)


def test_the_numbers_of_a_status_are_read_and_its_words_are_not() -> None:
    status = parse_status(STATUS)
    assert status["VmPTE"] == 44
    assert status["voluntary_ctxt_switches"] == 27
    assert "Name" not in status
    assert "NSpid" not in status


def test_a_process_has_a_number_in_each_namespace() -> None:
    assert parse_namespace_pids(STATUS) == [4711, 12]
    assert parse_namespace_pids("Name:\told kernel\n") == []


def test_what_a_file_has_in_memory_is_kept_apart_from_what_is_the_process_s_own() -> None:
    """A private page that was written to is the process's own, though a file is behind the mapping."""
    memory = parse_memory(SMAPS, STATUS)
    assert memory.files == {TEXT: 100, DATA: 24}
    assert memory.own_kib == 40 + 500 + 12
    assert memory.pss_kib == 25 + 50 + 500 + 12
    assert memory.page_tables_kib == 44


def test_a_process_that_has_just_ended_has_no_page_tables_to_be_read() -> None:
    with pytest.raises(KeyError, match="VmPTE"):
        parse_memory("", "Name:\tzombie\n")


def test_a_page_that_another_program_maps_too_counts_in_full_for_a_supervisor_alone() -> None:
    total = footprint([parse_memory(SMAPS, STATUS)])
    assert total.alone_kib == 552 + 124
    assert total.alone_kib > total.pss_kib
    assert total.total_kib == total.alone_kib + 44


def test_a_page_that_all_of_a_supervisor_s_processes_map_counts_once() -> None:
    few = Memory(pss_kib=0, own_kib=10, page_tables_kib=4, files={TEXT: 90})
    more = Memory(pss_kib=0, own_kib=20, page_tables_kib=4, files={TEXT: 100, DATA: 8})
    total = footprint([few, more, few])
    assert (total.processes, total.alone_kib, total.page_tables_kib) == (3, 40 + 108, 12)


def test_a_machine_is_named_by_its_first_processor() -> None:
    text = (
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor sse\n\nprocessor\t: 1\nmodel name\t: Other\n"
    )
    assert processor(text) == "Some CPU @ 2 GHz"
    assert is_virtual(text)
    assert not is_virtual(text.replace("hypervisor", "hypervisors"))
    assert processor("processor: 0\n") == "unknown"
