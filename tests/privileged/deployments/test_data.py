"""Data directories: made once, owned by who uses them, kept when their deployment goes."""

import os
from pathlib import Path

import pytest

from milkyway_agent.core.effects import HoldData
from milkyway_agent.deployments.data import DataPlane
from milkyway_formats.deployment import DataBinding
from milkyway_formats.manifest import DataClass

pytestmark = pytest.mark.privileged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("secure", "common", "group"):
        (tmp_path / name).mkdir()
    return tmp_path


def _hold(data_class: DataClass, user: int = 131072) -> HoldData:
    return HoldData("d_web_1", DataBinding(name="notes", source="notes_1", data_class=data_class), user)


async def test_secure_data_is_its_deployments_own(root: Path) -> None:
    await DataPlane(root, selinux=False).do(_hold("secure"))
    found = (root / "secure/notes_1").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (131072, 131072, 0o700)


async def test_common_data_is_nobodys_own(root: Path) -> None:
    await DataPlane(root, selinux=False).do(_hold("common"))
    found = (root / "common/notes_1").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (0, 0o1777)


async def test_what_is_there_stays_through_undo_and_again(root: Path) -> None:
    plane = DataPlane(root, selinux=False)
    await plane.do(_hold("secure"))
    (root / "secure/notes_1/kept").write_text("kept")
    await plane.undo(_hold("secure"))
    await plane.do(_hold("secure", user=196608))
    assert (root / "secure/notes_1/kept").read_text() == "kept"
    assert os.stat(root / "secure/notes_1").st_uid == 196608
