"""The command line of ``milkyway-agent --supervise``.

Imported before the first service runs, so it imports next to nothing.
"""

HELP = """usage: milkyway-agent --supervise DIR [--runtime DIR] [--state DIR] [--logs DIR] [--start NAME]...
                      [--verbose]
       milkyway-agent --check DIR

Supervise the services that DIR defines: one NAME.yaml each (docs/reference/service.md).

  --supervise DIR  start them and keep them running; SIGTERM or SIGINT stops all in order, SIGHUP reads DIR again
  --check DIR      read and check them, and write the plan that lets a start be quick; start nothing
  --runtime DIR    sockets, secrets and what a re-execution needs (default: below /run, or XDG_RUNTIME_DIR)
  --state DIR      when persistent timers last started their services (default: DIR/.state, or below the runtime directory)
  --logs DIR       keep what services write in rotated files there (default: print it)
  --start NAME     start NAME and what it needs (default: the service "default" if there is one, else all)
  --verbose        print every event, not only what services write and what goes wrong

Ask it with: mwctl --socket RUNTIME/mwctl.sock services

example: milkyway-agent --supervise examples/supervise --runtime /tmp/supervise
exit codes: 0 done, 1 a bug, 2 wrong usage, 3 refused, 4 not available now
"""
USAGE = 2
_VALUES = ("--supervise", "--check", "--runtime", "--state", "--logs", "--adopt", "--old", "--check-state")


class Options:
    """What the command line says."""

    __slots__ = ("adopt", "check", "check_state", "front", "logs", "old", "runtime", "start", "state", "supervise", "verbose")

    def __init__(self) -> None:
        self.supervise = self.check = self.runtime = self.state = self.logs = ""
        self.adopt = self.old = self.check_state = ""
        self.start: list[str] = []
        self.verbose = self.front = False


class UsageError(Exception):
    """The command line makes no sense."""


def read_options(arguments: list[str]) -> Options:
    """Return what *arguments* say. Raises UsageError. (argparse would cost more than starting a hundred services.)"""
    options, words = Options(), list(arguments)
    while words:
        word, _, value = words.pop(0).partition("=")
        if word == "--verbose":
            options.verbose = True
        elif word == "--front":
            options.front = True
        elif word in (*_VALUES, "--start"):
            if not value:
                if not words:
                    raise UsageError(f"{word} needs a value")
                value = words.pop(0)
            if word == "--start":
                options.start.append(value)
            else:
                setattr(options, word[2:].replace("-", "_"), value)
        else:
            raise UsageError(f"there is no option {word}")
    return options


def default_runtime(directory: str) -> str:
    """Return where a supervisor of *directory* keeps what lives as long as it runs."""
    import os

    name = "milkyway-supervise-" + os.path.realpath(directory).strip("/").replace("/", "-")
    base = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else f"/tmp/milkyway-{os.geteuid()}")
    return f"{base}/{name}"
