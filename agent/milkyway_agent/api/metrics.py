"""What is seen of services, as metrics in Prometheus's text format 0.0.4. Pure.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/. Base units (seconds, bytes, ratios), one
HELP and TYPE for each family, all samples of a family together; what is not known has no sample. Label values are
names of services, states and phases, escaped as the format asks.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, get_args

from milkyway_agent.api.usage import Figures
from milkyway_agent.core.explanation import Seen
from milkyway_formats.report import ServiceState

STATES: tuple[str, ...] = get_args(ServiceState)
Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One value with its labels."""

    value: float
    labels: Labels = ()


class Scene(NamedTuple):
    """Everything that is measured, at one moment. *phases*: when each phase of the boot was done (CLOCK_BOOTTIME)."""

    version: str
    uptime_ms: int
    phases: Mapping[str, int]
    services: Mapping[str, Seen]
    figures: Mapping[str, Figures]


def text(scene: Scene) -> str:
    """Return all metrics of *scene*."""
    services, figures = scene.services, scene.figures
    lines: list[str] = []

    def family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> None:
        found = [f"milkyway_{name}{_labels(sample.labels)} {_number(sample.value)}" for sample in samples]
        if found:
            lines.extend((f"# HELP milkyway_{name} {meaning}", f"# TYPE milkyway_{name} {kind}", *found))

    def each(field: str, factor: float = 1) -> Iterable[Sample]:
        for name, used in figures.items():
            value = getattr(used, field)
            if value is not None:
                yield Sample(value * factor, (("service", name),))

    family("info", "gauge", "The agent; always 1.", [Sample(1, (("version", scene.version),))])
    family("uptime_seconds", "gauge", "Time since the kernel started.", [Sample(scene.uptime_ms / 1000)])
    family(
        "boot_phase_done_seconds",
        "gauge",
        "When each phase of the boot was done, since the kernel's start.",
        [Sample(at / 1000, (("phase", name),)) for name, at in scene.phases.items()],
    )
    family(
        "service_state",
        "gauge",
        "1 for the state that the service is in, 0 for the others.",
        [
            Sample(service.row.current == state, (("service", name), ("state", state)))
            for name, service in services.items()
            for state in STATES
        ],
    )
    family(
        "service_wanted",
        "gauge",
        "Whether somebody wants the service to run.",
        [Sample(service.row.wanted, (("service", name),)) for name, service in services.items()],
    )
    family(
        "service_restarts_total",
        "counter",
        "How often the service ended by itself and was started again.",
        [Sample(service.restarts, (("service", name),)) for name, service in services.items()],
    )
    family(
        "service_state_changed_seconds",
        "gauge",
        "When the service came into its state, since the kernel's start.",
        [Sample(service.since_ms / 1000, (("service", name),)) for name, service in services.items()],
    )
    family(
        "service_first_ready_seconds",
        "gauge",
        "How long the service's first start took, from the moment when nothing held it back.",
        [
            Sample((service.times.ready_ms - service.times.permitted_ms) / 1000, (("service", name),))
            for name, service in services.items()
            if service.times.ready_ms
        ],
    )
    family("service_cpu_seconds_total", "counter", "Processor time used by the control group.", each("cpu_usec", 1e-6))
    family("service_memory_bytes", "gauge", "Memory that the control group is charged with.", each("memory_bytes"))
    family("service_tasks", "gauge", "Tasks in the control group.", each("tasks"))
    family("service_read_bytes_total", "counter", "Bytes read from block devices.", each("read_bytes"))
    family("service_written_bytes_total", "counter", "Bytes written to block devices.", each("written_bytes"))
    family(
        "service_pressure_ratio",
        "gauge",
        "Part of the last ten seconds in which some task waited for the resource.",
        [
            Sample(value / 100, (("service", name), ("resource", resource)))
            for name, used in figures.items()
            for resource, value in (("cpu", used.cpu_pressure), ("memory", used.memory_pressure), ("io", used.io_pressure))
            if value is not None
        ],
    )
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    """Return *value* without an exponent and without a needless fraction."""
    if value == int(value):
        return str(int(value))
    return f"{value:.6f}".rstrip("0")
