"""The texts and structures that the kernel writes and reads: no call is made here."""

import struct
from pathlib import Path

import pytest

from milkyway_agent.api.usage import Figures, read_figures
from milkyway_agent.system import cgroups, console, kernel, loop, mounts, processes, verity

HASH = "ab" * 32
LINE = f"console=ttyS0 security=selinux milkyway.slot=a milkyway.roothash={HASH} milkyway.salt={HASH} milkyway.blocks=9000"


def test_the_command_line_is_read() -> None:
    assert kernel.parse_cmdline(LINE) == ("a", HASH, HASH, 9000, False)
    assert kernel.parse_cmdline(f"{LINE} milkyway.development=1").development


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"{LINE} milkyway.slot=b", "milkyway.slot is there twice"),
        (f"{LINE} milkyway.debug=1", "milkyway.debug is unknown"),
        (f"{LINE} milkyway.development=0", "milkyway.development is 1 or absent"),
        (LINE.replace("slot=a", "slot=c"), r"milkyway.slot is not \[ab\]: 'c'"),
        (LINE.replace("blocks=9000", "blocks=-1"), "milkyway.blocks is not"),
        (LINE.replace(f"roothash={HASH}", f"roothash={HASH[:-1]}"), "milkyway.roothash is not"),
        (LINE.replace(f"roothash={HASH}", f"roothash={HASH.upper()}"), "milkyway.roothash is not"),
        (LINE.replace(f" milkyway.salt={HASH}", ""), "milkyway.salt is missing"),
        ("", "milkyway.slot is missing"),
    ],
)
def test_a_command_line_that_is_not_exact_is_refused(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"cannot read the kernel's command line: {why}"):
        kernel.parse_cmdline(line)


def test_mounts_are_read_with_optional_fields_and_escapes() -> None:
    text = (
        "36 35 98:0 / /mnt\\040a rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n"
        "37 36 0:22 /sub /proc ro - proc proc rw\n"
    )
    first, second = mounts.parse_mountinfo(text)
    assert (first.target, first.fstype, first.source) == ("/mnt a", "ext3", "/dev/root")
    assert (second.root, second.target, second.options, second.super_options) == ("/sub", "/proc", "ro", "rw")


def test_a_process_may_have_any_name() -> None:
    rest = " ".join(["S", "7", *["0"] * 17, "4711", "0"])
    assert processes.parse_stat(f"42 (a) b (c d) {rest}") == (42, "a) b (c d", "S", 7, 4711)


def test_figures_of_groups_are_read() -> None:
    assert cgroups.parse_keyed("usage_usec 1500\nuser_usec 7\nnice\n") == {"usage_usec": 1500, "user_usec": 7}
    text = "254:0 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n254:16 rbytes=11 wbytes=0 rios=1\n"
    assert cgroups.parse_io_stat(text) == (111, 7)
    assert cgroups.parse_io_stat("") == (0, 0)
    assert cgroups.parse_pressure("some avg10=12.34 avg60=0.00 avg300=0.00 total=9\nfull avg10=1.00 total=1\n") == 12.34
    assert cgroups.parse_pressure("") is None


def test_missing_figures_are_none(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 5\n")
    group = str(tmp_path)
    assert (cgroups.memory_current(group), cgroups.cpu_usage_usec(group)) == (4096, 5)
    assert (cgroups.pids_current(group), cgroups.io_stat(group), cgroups.pressure(group, "io")) == (None, None, None)
    assert read_figures(group) == Figures(memory_bytes=4096, cpu_usec=5)
    assert read_figures(f"{group}/gone") == Figures()


def test_listeners_are_found_by_port_and_state() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  4711        0 1 1\n"
        "   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1\n"
        "   2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000    99        0 3 1\n"
    )
    assert processes.parse_listening(table, 8080) == {4711}
    assert processes.parse_listening(table, 9999) == set()


def test_a_verity_table_has_the_tree_directly_after_the_data() -> None:
    table = verity.table("/dev/loop3", data_blocks=9, root_hash=HASH, salt="cd" * 32)
    assert table == f"1 /dev/loop3 /dev/loop3 4096 4096 9 9 sha256 {HASH} {'cd' * 32}"


def test_a_device_mapper_request_is_laid_out_as_the_kernel_reads_it() -> None:
    """Sizes and offsets of linux/dm-ioctl.h: struct dm_ioctl (312 bytes), struct dm_target_spec (40)."""
    buffer = verity.request("layer-ab", verity.DM_READONLY_FLAG, (72, "verity", "1 table"))
    assert struct.unpack_from("<3I", buffer, 0) == (4, 0, 0)
    assert struct.unpack_from("<3I", buffer, 12) == (16384, 312, 1)
    assert struct.unpack_from("<I", buffer, 28) == (verity.DM_READONLY_FLAG,)
    assert bytes(buffer[48:57]) == b"layer-ab\0"
    assert struct.unpack_from("<QQiI", buffer, 312) == (0, 72, 0, 48)
    assert bytes(buffer[336:343]) == b"verity\0"
    assert bytes(buffer[352:360]) == b"1 table\0"


def test_a_loop_configuration_has_the_kernels_size_and_offsets() -> None:
    """Sizes and offsets of linux/loop.h: struct loop_config (304 bytes), lo_flags at 8 + 52."""
    config = loop.loop_config(7, "name.layer", loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_DIRECT_IO)
    assert len(config) == 304
    assert struct.unpack_from("<II", config, 0) == (7, 4096)
    assert struct.unpack_from("<I", config, 60) == (17,)
    assert config[64:75] == b"name.layer\0"


def test_a_line_can_neither_steer_the_terminal_nor_begin_another_line() -> None:
    assert console.printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert console.printable("grüße") == "grüße"
