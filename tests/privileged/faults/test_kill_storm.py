"""Five hundred kills and five re-executions: the short form of ``tests/soak/test_kill_storm_soak.py``."""

import random

import pytest

from tests.privileged.faults.kill_storm import check, standing, storm, storm_struck

pytestmark = pytest.mark.privileged


def test_five_hundred_kills_and_five_re_executions_leave_everything_as_it_was() -> None:
    with storm_struck() as supervisor:
        before = standing(supervisor)
        storm(supervisor, 500, 5, random.Random(1))
        check(before, standing(supervisor), supervisor)
