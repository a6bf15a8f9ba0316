"""Services that contradict themselves, and what a layer's service can't have, are refused by name."""

import msgspec
import pytest

from milkyway_formats.execution import Credential, Execution
from milkyway_formats.listener import Address, Fifo, Listener, Tcp, Udp, UnixDatagram, UnixStream
from milkyway_formats.service import (
    ExecProbe,
    Health,
    HttpProbe,
    Limits,
    ReadyByExit,
    ReadyByProbe,
    Reload,
    Restart,
    Service,
    Stop,
    TcpProbe,
)
from milkyway_formats.service_check import ServiceError, check_layer_service, check_listeners_of_all, check_service
from milkyway_formats.timer import Timer

DAEMON = ["/usr/bin/daemon"]


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (Service(name="web"), "it has no command"),
        (Service(name="web", command=["daemon"]), "'daemon' is not an absolute path"),
        (Service(name="all", type="bundle", command=DAEMON), "a bundle has no command"),
        (Service(name="all", type="bundle", readiness=ReadyByExit()), "a bundle is ready when its parts are"),
        (Service(name="web", command=DAEMON, readiness=ReadyByExit()), "a longrun can't be ready by ending"),
        (
            Service(name="web", command=DAEMON, execution=Execution(dynamic_user=True, account="www-data")),
            "either dynamic or www-data, not both",
        ),
        (Service(name="web", command=DAEMON, restart=Restart(delay_ms=10, delay_limit_ms=5)), "delay_limit_ms is less"),
        (
            Service(name="web", type="oneshot", command=DAEMON, health=Health(probe=ExecProbe(command=DAEMON))),
            "only a longrun is asked",
        ),
        (
            Service(name="web", command=DAEMON, listeners=[Listener(name="in", address=Udp(port=53), accept=True)]),
            "listener in has accept, but its address takes no connections",
        ),
        (
            Service(name="web", command=DAEMON, listeners=[Listener(name="in", address=Tcp(port=port)) for port in (1, 2)]),
            "two of its listeners have the same name",
        ),
        *(
            (Service(name="web", command=DAEMON, listeners=[Listener(name="in", address=address)]), why)
            for address, why in (
                (UnixStream(path="/" + "s" * 107), "the path of listener in is longer than 107 bytes"),
                (UnixDatagram(path="/" + "ß" * 54), "the path of listener in is longer than 107 bytes"),
            )
        ),
        *(
            (
                Service(
                    name="web",
                    command=DAEMON,
                    listeners=[Listener(name="in", address=first), Listener(name="too", address=second)],
                ),
                "its listeners in and too have the same address",
            )
            for first, second in (
                (Tcp(port=80), Tcp(port=80, address="127.0.0.1")),
                (Udp(port=53, address="::1"), Udp(port=53, address="::1")),
                (UnixStream(path="/run/s"), Fifo(path="/run/s")),
            )
        ),
        (Service(name="web", command=DAEMON, timers=[Timer()]), "one of its timers names no time"),
    ],
)
def test_contradictions_are_refused(service: Service, why: str) -> None:
    with pytest.raises(ServiceError, match=why):
        check_service(service)


@pytest.mark.parametrize(
    "addresses",
    [
        [Tcp(port=80, address="127.0.0.1"), Tcp(port=80, address="::1")],
        [Tcp(port=53), Udp(port=53), Tcp(port=54)],
        [UnixStream(path="/" + "s" * 106), UnixDatagram(path="/run/d"), Fifo(path="/" + "f" * 200)],
    ],
)
def test_different_addresses_are_no_contradiction(addresses: list[Address]) -> None:
    listeners = [Listener(name=f"n{number}", address=address) for number, address in enumerate(addresses)]
    check_service(Service(name="web", command=DAEMON, listeners=listeners))


def test_two_services_share_an_address_only_where_they_never_run_together() -> None:
    here, there = (
        Service(name=name, command=DAEMON, listeners=[Listener(name="in", address=Tcp(port=80))]) for name in ("here", "there")
    )
    why = "^cannot use service there: its listener in has the address of here's in$"
    with pytest.raises(ServiceError, match=why):
        check_listeners_of_all({"here": here, "there": there})
    check_listeners_of_all({"here": here, "there": msgspec.structs.replace(there, conflicts=["here"])})
    check_listeners_of_all({"here": msgspec.structs.replace(here, conflicts=["there"]), "there": there})


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (Service(name="web", command=DAEMON, listeners=[Listener(name="in", address=Tcp(port=1), accept=True)]), "that accept"),
        (Service(name="web", command=DAEMON, listeners=[Listener(name="in", address=UnixStream(path="/s"))]), "tcp or udp"),
        (Service(name="web", command=DAEMON, execution=Execution(nice=-5)), "execution.nice and oom_score below 0 not"),
        (Service(name="web", command=DAEMON, execution=Execution(oom_score=-1)), "execution.nice and oom_score below 0 not"),
        (Service(name="web", command=DAEMON, execution=Execution(account="www")), "execution.account not"),
        (Service(name="web", command=DAEMON, execution=Execution(dynamic_user=True)), "execution.dynamic_user not"),
        (Service(name="web", command=DAEMON, execution=Execution(capabilities=["net_raw"])), "execution.capabilities not"),
        (Service(name="web", command=DAEMON, execution=Execution(no_new_privileges=False)), "execution.no_new_privileges not"),
        (Service(name="web", command=DAEMON, execution=Execution(namespaces=["network"])), "execution.namespaces not"),
        (
            Service(name="web", command=DAEMON, execution=Execution(credentials=[Credential(name="key", source="/etc/key")])),
            "execution.credentials not",
        ),
        *(
            (Service(name="web", command=DAEMON, execution=Execution(limits={name: 1})), f"execution.limits.{name} not")
            for name in ("memlock", "msgqueue", "nice", "rtprio")
        ),
        (Service(name="web", command=DAEMON, stored_descriptors=1), "stored_descriptors not available"),
        (Service(name="web", command=DAEMON, health=Health(probe=HttpProbe(port=80))), "probes of type http not available"),
        (
            Service(name="web", command=DAEMON, readiness=ReadyByProbe(probe=HttpProbe(port=80))),
            "probes of type http not available",
        ),
        (Service(name="web", command=DAEMON, restart=Restart(on_failure="reboot")), "on_failure: reboot"),
    ],
)
def test_a_layer_never_runs_with_less_than_it_was_signed_with(service: Service, why: str) -> None:
    check_service(service)
    with pytest.raises(ServiceError, match=why):
        check_layer_service(service)


def test_a_plain_service_is_accepted() -> None:
    check_layer_service(Service(name="web", command=DAEMON, limits=Limits(memory_bytes=1 << 20, pids=8, cpu_percent=50)))
    held = Execution(umask=0o077, nice=5, oom_score=100, processors=[0], limits={"nofile": 4096}, seccomp="default")
    check_layer_service(Service(name="web", command=DAEMON, execution=held))


def test_a_layer_may_name_a_bundle_of_its_services() -> None:
    check_layer_service(Service(name="all", type="bundle", requires=["web", "jobs"]))


def test_a_layers_service_may_be_probed_reloaded_and_stopped_by_commands() -> None:
    health = Health(probe=TcpProbe(port=80))
    readiness = ReadyByProbe(probe=ExecProbe(command=DAEMON))
    reload, stop = Reload(command=DAEMON), Stop(command=DAEMON)
    service = Service(name="web", command=DAEMON, health=health, readiness=readiness, reload=reload, stop=stop)
    check_layer_service(service)
    check_layer_service(Service(name="web", command=DAEMON, watchdog_ms=1000, conflicts=["old"]))


def test_a_layers_service_may_wait_for_clients_and_for_its_time() -> None:
    listeners = [Listener(name="in", address=Tcp(port=80)), Listener(name="also", address=Udp(port=53))]
    check_layer_service(
        Service(name="web", command=DAEMON, listeners=listeners, timers=[Timer(calendar=["daily"], persistent=True)])
    )
