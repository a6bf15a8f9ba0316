"""From a console to the section about boots: moments, stretches, the ratio and the goal."""

import pytest

from bench.boot.console import STRETCHES, lasted, read
from bench.boot.images import unconfined
from bench.boot.record import Boot, BootRecord
from bench.boot.report import BEGIN, END, section
from bench.machine import MachineFacts
from bench.supervisor.report import replace_section

OURS = """\
[    2.555550] Run /init as init process\r
milkyway: initramfs at 2.03 s\r
milkyway: root verified, policy loaded, starting PID 1 at 2.50 s\r
milkyway: PID 1 at 3.62 s\r
milkyway: boot phase done: phase=selinux at_ms=4520\r
milkyway: boot phase done: phase=cgroups at_ms=4560\r
milkyway: boot phase done: phase=filesystems at_ms=6559\r
milkyway: boot phase done: phase=kernel at_ms=7053\r
bench-boot: first at 4758675\r
milkyway# milkyway: dhcp: service process started: pid=198\r
bench-boot: first at 9256807\r
milkyway: boot finished: at_ms=12980 failures=0\r
"""
THEIRS = """\
milkyway: initramfs at 2.00 s\r
milkyway: root verified, policy loaded, starting PID 1 at 2.40 s\r
[    3.704183] systemd[1]: systemd 257.13-1~deb13u1 running in system mode (+PAM +AUDIT)\r
\r
bench-boot: supervisor at 4835672\r
bench-boot: first at 7235478\r
bench-systemd: UserspaceTimestampMonotonic=3035607\r
bench-systemd: GeneratorsStartTimestampMonotonic=3474219\r
bench-systemd: GeneratorsFinishTimestampMonotonic=3820223\r
bench-systemd: UnitsLoadFinishTimestampMonotonic=3911589\r
bench-systemd: FinishTimestampMonotonic=7185747\r
bench-systemd: InitRDTimestampMonotonic=0\r
bench-failed: a.service loaded failed failed Something\r
"""
MACHINE = MachineFacts("Some CPU", 2, 1024, "6.12", True, "3.13.1", 0.5)


def _record(ours: dict[int, float], theirs: dict[int, float], failed: tuple[str, ...] = ()) -> BootRecord:
    boots = {
        "milkyway": {number: Boot({"first": ms}, ms + 300, "tcg") for number, ms in ours.items()},
        "systemd": {number: Boot({"first": ms}, ms + 300, "tcg", failed, "257.1") for number, ms in theirs.items()},
    }
    return BootRecord("2026-01-01", MACHINE, 2, "6.12.1", boots, [])


def test_our_boot_is_read_from_the_lines_of_the_initramfs_pid_1_and_the_service() -> None:
    at = read(OURS).at
    assert at["pid1-executed"] == 2500
    assert at["phase-kernel"] == 7053
    assert at["booted"] == 12980


def test_the_first_start_of_a_restarted_service_counts() -> None:
    assert read(OURS).at["first"] == pytest.approx(4758.675)


def test_systemds_own_times_are_read_except_those_of_what_did_not_happen() -> None:
    moments = read(THEIRS)
    assert moments.at["systemd-Userspace"] == pytest.approx(3035.607)
    assert moments.at["booted"] == pytest.approx(7185.747)
    assert "systemd-InitRD" not in moments.at
    assert moments.systemd == "257.13-1~deb13u1"
    assert moments.failed == ("a.service",)


@pytest.mark.parametrize(("name", "console"), [("milkyway", OURS), ("systemd", THEIRS)])
def test_the_stretches_of_a_boot_have_no_gap_and_add_up_to_the_first_service(name: str, console: str) -> None:
    at = read(console).at
    parts = [lasted(stretch, at) for stretch in STRETCHES[name]]
    assert None not in parts
    assert sum(part for part in parts if part is not None) == pytest.approx(at["first"])


def test_a_stretch_whose_end_is_not_known_has_no_length() -> None:
    assert lasted(STRETCHES["milkyway"][-1], {"phase-cgroups": 1.0}) is None


def test_the_ratio_is_that_of_the_first_services_round_by_round() -> None:
    seen = _record({0: 9000, 1: 18000}, {0: 6000, 1: 12000, 2: 1}).first_service()
    assert seen is not None
    assert (seen.median, seen.least, seen.greatest) == (1.5, 1.5, 1.5)


def test_a_missed_goal_is_reported_with_the_excess() -> None:
    assert "**1.25 (1.25 to 1.25)**; the goal is at most 1.0: missed by 25 %." in section(_record({0: 7500}, {0: 6000}))


def test_a_reached_goal_is_reported() -> None:
    assert "**1.00 (1.00 to 1.00)**; the goal is at most 1.0: reached." in section(_record({0: 6000}, {0: 6000}))


def test_without_both_nothing_is_claimed() -> None:
    assert "Kernel to first service: not measured." in section(_record({0: 6000}, {}))


def test_units_that_failed_are_named() -> None:
    assert "Units of systemd that failed: a.service, b.service." in section(
        _record({}, {0: 1, 1: 1}, ("b.service", "a.service"))
    )


def test_the_section_of_boots_leaves_that_of_supervisors_alone() -> None:
    page = f"# Page\n<!-- written by python -m bench --write; change that -->\nkept\n{BEGIN}\nold\n{END}\nafter\n"
    written = replace_section(page, section(_record({0: 1}, {0: 1})), BEGIN, END)
    assert "kept\n" in written
    assert "old" not in written
    assert written.endswith(f"{END}\nafter\n")


def test_the_policy_that_refuses_nothing_names_every_class_once() -> None:
    text = unconfined(["(class file (open))\n(class dir (search))\n; (class not this)\n", "(class file (open))\n"])
    assert text.count("(allow bench_every_a bench_every_a (file (all)))") == 1
    assert text.count("(dir (all))") == 1
    assert "not" not in text
