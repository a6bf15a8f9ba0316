"""The same inputs give the same CoreOS, byte for byte."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.privileged

BUILT = Path("build/coreos")
IMAGES = ("root.img", "initramfs.img", "vmlinuz", "coreos.json", "files.txt")


def _hashes(directory: Path) -> dict[str, str]:
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in IMAGES}


def test_building_again_from_the_packages_gives_the_same_bytes(tmp_path: Path) -> None:
    """The second build shares only the distribution's packages with the first, and fetches them anew."""
    command = [".venv/bin/milkyway", "coreos", "build", "--output"]
    subprocess.run([*command, str(BUILT)], check=True, capture_output=True)
    again = Path("build/coreos-again")
    shutil.rmtree(again, ignore_errors=True)
    try:
        subprocess.run([*command, str(again)], check=True, capture_output=True)
        assert _hashes(again) == _hashes(BUILT)
    finally:
        shutil.rmtree(again, ignore_errors=True)
