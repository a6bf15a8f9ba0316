"""Limits on threads, made anew for every run of the loop: an agent that fails is followed by another run."""

import trio


class RunLimiter:
    """Lets *threads* threads work at a time. An abandoned thread counts until it is done, so what hangs occupies no more."""

    def __init__(self, name: str, threads: int) -> None:
        self._threads = threads
        self._of_run: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(name)

    def get(self) -> trio.CapacityLimiter:
        """Return the limiter of this run of the loop."""
        try:
            return self._of_run.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._threads)
            self._of_run.set(limiter)
            return limiter
