"""The first lines of PID 1. Standard library only, until the rest has proved that it can be imported.

PID 1 never ends: the kernel panics when it does. So whatever goes wrong in here is printed, and
what remains is a process that reaps orphans and lets the services live.
"""

import os
import sys
import time
import traceback


def main() -> None:
    """Be PID 1, for ever."""
    born_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    print(f"milkyway: PID 1 at {born_ms / 1000:.2f} s", flush=True)
    try:
        from milkyway_agent import pid1

        pid1.run(born_ms)
    except BaseException:  # noqa: BLE001 (an end of any kind would be a panic)
        traceback.print_exc()
    print("milkyway: the agent has failed; services go on, nothing supervises them", file=sys.stderr, flush=True)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(10)
        except BaseException:  # noqa: BLE001 (see above)
            traceback.print_exc()


if __name__ == "__main__":
    main()
