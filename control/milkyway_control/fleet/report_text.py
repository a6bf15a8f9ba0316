"""A machine's report as lines for people. Pure. The machine wrote the text, so it is made printable first."""

from milkyway_formats.report import DeploymentStatus, ServiceStatus, Status


def status_lines(status: Status, age_s: int) -> list[str]:
    """Return the state of a machine, a fact on each line."""
    slot = f"slot {status.slot}, " if status.slot else ""
    mode = ", development" if status.development else ""
    lines = [
        f"reported {max(age_s, 0)} s ago",
        f"CoreOS {status.root_hash[:16]} ({slot}SELinux {status.selinux}{mode}), up {status.uptime_ms // 1000} s",
        f"runs desired state {status.desired_version}",
    ]
    if status.quarantined:
        lines.append(f"QUARANTINED: {status.quarantined}")
    lines += [f"service {_service(service)}" for service in status.services]
    for deployment in status.deployments:
        lines.append(f"deployment {_deployment(deployment)}")
        lines += [f"    service {_service(service)}" for service in deployment.services]
        lines += [f"    layer {layer.path} {layer.version} {layer.root_hash[:16]}" for layer in deployment.layers]
    lines += [f"boot failure: {failure}" for failure in status.boot_failures]
    lines += [f"refused: {refusal}" for refusal in status.refusals]
    return [_printable(line) for line in lines]


def log_lines(status: Status) -> list[str]:
    """Return the failures, refusals and restarts in a report."""
    lines = [f"boot: {failure}" for failure in status.boot_failures]
    lines += [f"refused: {refusal}" for refusal in status.refusals]
    services = list(status.services)
    for deployment in status.deployments:
        if deployment.reason:
            lines.append(f"{deployment.name}: {deployment.state}: {deployment.reason}")
        services += deployment.services
    for service in services:
        if service.reason or service.restarts:
            lines.append(f"{service.name}: {service.state}, {service.restarts} restarts{_because(service.reason)}")
    return [_printable(line) for line in lines]


def _service(service: ServiceStatus) -> str:
    where = f" pid {service.pid} {service.context}" if service.pid else ""
    return f"{service.name} {service.state}{where}{_because(service.reason)}"


def _deployment(deployment: DeploymentStatus) -> str:
    what = f"{deployment.name} {deployment.state} ({deployment.id}, generation {deployment.generation})"
    return what + _because(deployment.reason)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in line)
