"""For all tests with a real kernel: SIGCHLD waits to be read, as it does in the agent, whose threads all come after that.

A thread that a test before has left behind would otherwise take the signal, and nobody would hear of it.
"""

import signal

from milkyway_agent.system import signals

signals.block([signal.SIGCHLD])
