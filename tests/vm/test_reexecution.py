"""PID 1 re-executes while clients keep nginx busy: no client notices, and everything stays supervised."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from demo import run as demo
from tests.vm.deployed import deployment, remove_all

pytestmark = pytest.mark.vm

CLIENTS = 4


class Load:
    """Clients that request the page again and again, each time on a new connection."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.lost = 0
        self._port = port
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._clients = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self) -> None:
        while not self._over.is_set():
            is_page = "<h1>MilkyWay</h1>" in demo.page(self._port)
            with self._lock:
                self.answered += is_page
                self.lost += not is_page

    def more(self, requests: int) -> None:
        """Wait until this many more requests were answered or lost."""
        asked = self.answered + self.lost
        demo.wait_until("requests", lambda: self.answered + self.lost >= asked + requests, 120)

    def begin(self) -> None:
        for client in self._clients:
            client.start()

    def end(self) -> None:
        self._over.set()
        for client in self._clients:
            client.join()


@contextmanager
def load(port: int) -> Iterator[Load]:
    clients = Load(port)
    clients.begin()
    try:
        yield clients
    finally:
        clients.end()


def _web() -> dict[str, Any]:
    return deployment("web")


def _state_descriptor() -> str:
    """Return the descriptor of the state that PID 1 was executed with, "" if there was none."""
    words = demo.in_machine("sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline").split()
    return words[words.index("--adopt") + 1] if "--adopt" in words else ""


def _starts() -> int:
    return demo.in_machine("mwctl", "logs", "agent").count("agent re executed")


def _reexecute() -> None:
    """Re-execute PID 1; return when its services, the verifier and the link to the control server are all back."""
    before = _starts()
    demo.in_machine("mwctl", "reexec")
    demo.wait_until("the next program", lambda: _starts() > before, 120)
    demo.wait_until("the verifier", lambda: _web()["state"] == "active" and demo.status()["connected"], 180)


def test_no_request_is_lost_and_nothing_but_pid_1s_program_has_changed(chain: demo.Chain) -> None:
    remove_all()
    demo.deploy(chain.layers["nginx"], chain.layers, "web")
    demo.wait_until("the page", lambda: demo.page(chain.web_port), 180)
    before = demo.status()
    assert _state_descriptor() == ""
    with load(chain.web_port) as clients:
        clients.more(20)
        _reexecute()
        assert _state_descriptor() != ""
        clients.more(20)
    assert clients.lost == 0
    after = demo.status()
    for part in ("deployments", "boot_ms", "boot_failures", "root_hash", "selinux", "desired_version"):
        assert after[part] == before[part], part
    names = ("dhcp", "console-ttys0", "console-hvc0")
    kept = {service["name"]: service["pid"] for service in before["services"] if service["name"] in names}
    assert {service["name"]: service["pid"] for service in after["services"] if service["name"] in kept} == kept
    assert [process["pid"] for process in after["processes"] if ":agent_t:" in process["context"]] == [1]


def test_what_went_on_is_still_supervised_confined_and_at_the_owners_command(chain: demo.Chain) -> None:
    _reexecute()  # with the state of a program that had adopted it itself
    pid = _web()["services"][0]["pid"]
    domain = _web()["services"][0]["context"]
    demo.in_machine("sh", "-c", f"kill -9 {pid}")
    again = demo.wait_until("another process", lambda: _web()["services"][0]["pid"] not in (0, pid) and _web()["services"][0])
    assert again["context"] == domain
    assert again["restarts"] == 1
    demo.wait_until("the page", lambda: demo.page(chain.web_port), 60)
    demo.milkyway("fleet", "restart", demo.MACHINE, "web/nginx", "--key", demo.KEYS / "alice.key")
    demo.wait_until("a new process", lambda: _web()["services"][0]["pid"] not in (0, again["pid"]), 60)
    remove_all()
    assert [process for process in demo.status()["processes"] if process["name"] == "nginx"] == []
