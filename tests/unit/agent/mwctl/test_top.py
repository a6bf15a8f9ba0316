"""``mwctl top`` on a terminal of its own: what is drawn, what its keys do, and that the terminal is restored afterwards."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

# Stands in for the agent: answers every request from a file, and fails as unavailable when there is none.
PROGRAM = """
import json, signal, sys
from milkyway_agent.mwctl.screen import Painter
from milkyway_agent.mwctl.top import watch
from milkyway_formats.errors import UnavailableError
def ask():
    try:
        with open(sys.argv[1]) as file:
            return json.load(file)
    except OSError:
        raise UnavailableError("nobody answers") from None
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background had it ignored
watch(ask, Painter(colour=True), sort="cpu")
"""
FIGURES = dict.fromkeys(
    ("memory_bytes", "tasks", "read_bytes", "written_bytes", "cpu_pressure", "memory_pressure", "io_pressure")
)
WEB = {"service": "web", "state": "started", "pid": 1, "figures": {**FIGURES, "cpu_usec": 5}}
ANSWER = {"at_us": 1, "uptime_ms": 1, "processors": 1, "services": [WEB]}


class Terminal:
    """A pseudo-terminal in which the program runs."""

    def __init__(self, answers: Path) -> None:
        self._main, self.side = pty.openpty()
        termios.tcsetwinsize(self.side, (10, 60))
        self.before = termios.tcgetattr(self.side)
        self.seen = ""
        command = [sys.executable, "-c", PROGRAM, str(answers)]
        self.process = subprocess.Popen(command, stdin=self.side, stdout=self.side, stderr=subprocess.PIPE, text=True)

    def until(self, text: str) -> None:
        """Read until *text* has been drawn."""
        for _ in range(100):
            if text in self.seen:
                return
            readable, _, _ = select.select([self._main], [], [], 10)
            assert readable, f"{text!r} was not drawn: {self.seen!r}"
            self.seen += os.read(self._main, 4096).decode()
        raise AssertionError(f"{text!r} was not drawn: {self.seen!r}")

    def press(self, key: bytes) -> None:
        os.write(self._main, key)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._main)
        os.close(self.side)


@pytest.mark.parametrize("end", ["q", "ctrl-c"])
def test_it_draws_on_the_alternate_screen_and_leaves_the_terminal_as_it_was(tmp_path: Path, end: str) -> None:
    answers = tmp_path / "answers"
    answers.write_text(json.dumps(ANSWER))
    terminal = Terminal(answers)
    try:
        terminal.until("q quits")
        assert terminal.seen.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
        assert "1 of 1 services started" in terminal.seen
        assert termios.tcgetattr(terminal.side) != terminal.before
        if end == "q":
            terminal.press(b"q")
        else:  # this is no controlling terminal: the key would reach no process
            terminal.process.send_signal(signal.SIGINT)
        terminal.until("\x1b[?25h\x1b[?1049l")
        _, errors = terminal.process.communicate(timeout=10)
        assert errors == "" if end == "q" else errors.rstrip().endswith("KeyboardInterrupt")
        assert termios.tcgetattr(terminal.side) == terminal.before
    finally:
        terminal.close()


def test_it_waits_for_an_agent_that_does_not_answer_for_a_while(tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    answers.write_text(json.dumps(ANSWER))
    terminal = Terminal(answers)
    try:
        terminal.until("q quits")
        answers.rename(tmp_path / "gone")
        terminal.press(b" ")
        terminal.until("nobody answers")
        (tmp_path / "gone").rename(answers)
        terminal.seen = ""
        terminal.press(b" ")
        terminal.until("q quits")
    finally:
        terminal.close()
