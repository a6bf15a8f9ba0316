"""The booted machine that all tests of this tier share: built, enrolled and serving nginx, by the demo's own steps."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from demo import run as demo


@pytest.fixture(scope="session")
def chain() -> Iterator[demo.Chain]:
    with ExitStack() as undo:
        yield demo.bring_up(undo)
