"""What the supervisor does once there is time: it looks for garbage again, and imports from files."""

import gc
import sys

import trio.testing

from milkyway_agent.early import carried_code
from milkyway_agent.standalone import supervision


async def test_garbage_is_looked_for_again_and_nothing_is_carried_any_more(autojump_clock: trio.testing.MockClock) -> None:
    finder = carried_code.Finder({})
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        await supervision.tidy_up()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert finder not in sys.meta_path
    finally:
        gc.enable()
        gc.unfreeze()
        carried_code.forget()
