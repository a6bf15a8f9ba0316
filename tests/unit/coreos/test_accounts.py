"""The accounts of CoreOS are those that the agent relies on: two houses that may not import each other agree here."""

from milkyway_agent.pid1.program_table import ADMIN_GROUP, COMPILER_USER, FRONT_USER, UPLINK_USER, VERIFIER_USER
from milkyway_coreos.image.config import TEXTS


def test_coreos_has_the_group_and_the_users_that_the_agent_relies_on() -> None:
    groups = {line.split(":")[0]: int(line.split(":")[2]) for line in TEXTS["etc/group"].splitlines()}
    users = {line.split(":")[0]: int(line.split(":")[2]) for line in TEXTS["etc/passwd"].splitlines()}
    assert groups["milkyway"] == ADMIN_GROUP
    expected = {"verifier": VERIFIER_USER, "uplink": UPLINK_USER, "compiler": COMPILER_USER, "front": FRONT_USER}
    for name, number in expected.items():
        assert users[f"milkyway-{name}"] == groups[f"milkyway-{name}"] == number
    assert len(set(groups.values())) == len(groups)
