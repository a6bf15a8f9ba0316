"""The machine as it shows itself."""

from milkyway_agent.pid1.machine_api import owners_policy
from milkyway_formats.report import RootStatus


def test_the_policy_is_the_owners_and_read_where_no_owner_is_known() -> None:
    vendor = RootStatus(side="vendor", version=1, expires=0, sha256="6" * 64)
    owner = RootStatus(side="owner", version=1, expires=0, sha256="6" * 64, local="change")
    assert owners_policy([vendor, owner]) == "change"
    assert owners_policy([vendor]) == owners_policy([]) == "read"
