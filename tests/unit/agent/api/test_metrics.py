"""The metrics are what Prometheus's text format 0.0.4 says they must be."""

import re

from milkyway_agent.api.metrics import Scene, text
from milkyway_agent.api.usage import Figures
from milkyway_agent.core.explanation import Seen
from milkyway_agent.core.service_state import Row
from milkyway_agent.core.start_times import Times

SCENE = Scene(
    version="0.1.0",
    uptime_ms=12_345,
    phases={"ready": 18_400},
    services={
        "dhcp": Seen(row=Row.STARTED, since_ms=12_500, restarts=3, times=Times(9000, 9001, 9005, 12_501, 12_501)),
        "web/nginx": Seen(row=Row.WAITING),
    },
    figures={
        "dhcp": Figures(memory_bytes=3 << 20, cpu_usec=1_500_001, tasks=2, read_bytes=4096, memory_pressure=12.5),
    },
)
SAMPLE = re.compile(r'^[a-z_]+(\{[a-z_]+="[^"\\\n]*(\\.[^"\\\n]*)*"(,[a-z_]+="[^"]*")*\})? -?[0-9]+(\.[0-9]+)?$')


def values(scene: Scene = SCENE) -> dict[str, str]:
    return dict(line.rsplit(" ", 1) for line in text(scene).splitlines() if not line.startswith("#"))


def test_values_are_in_base_units() -> None:
    found = values()
    assert found["milkyway_uptime_seconds"] == "12.345"
    assert found['milkyway_boot_phase_done_seconds{phase="ready"}'] == "18.4"
    assert found['milkyway_service_cpu_seconds_total{service="dhcp"}'] == "1.500001"
    assert found['milkyway_service_memory_bytes{service="dhcp"}'] == "3145728"
    assert found['milkyway_service_pressure_ratio{service="dhcp",resource="memory"}'] == "0.125"
    assert found['milkyway_service_restarts_total{service="dhcp"}'] == "3"
    assert found['milkyway_service_first_ready_seconds{service="dhcp"}'] == "3.5"


def test_of_all_states_one_is_1() -> None:
    states = {name: value for name, value in values().items() if name.startswith('milkyway_service_state{service="web/nginx"')}
    assert len(states) == 6
    assert [name for name, value in states.items() if value == "1"] == [
        'milkyway_service_state{service="web/nginx",state="stopped"}'
    ]
    assert set(states.values()) == {"0", "1"}


def test_what_is_not_known_has_no_sample() -> None:
    assert not [name for name in values() if "written_bytes" in name or ("web/nginx" in name and "first_ready" in name)]


def test_every_family_is_told_once_with_help_and_type_and_its_samples_follow() -> None:
    families: list[str] = []
    for line in text(SCENE).splitlines():
        if line.startswith("# HELP "):
            families.append(line.split()[2])
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name == families[-1]
            assert kind == ("counter" if name.endswith("_total") else "gauge")
        else:
            assert re.split(r"[{ ]", line)[0] == families[-1]
            assert SAMPLE.match(line), line
    assert len(families) == len(set(families))
    assert text(SCENE).endswith("\n")


def test_labels_are_escaped() -> None:
    scene = SCENE._replace(phases={'a "b" \\ c\nd': 1000})
    assert values(scene)['milkyway_boot_phase_done_seconds{phase="a \\"b\\" \\\\ c\\nd"}'] == "1"
