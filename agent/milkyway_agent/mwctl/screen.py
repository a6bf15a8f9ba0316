"""What mwctl shows: the API's JSON as lines of text. Pure: no input, no output, no clock.

Control characters in whatever a service, a layer or a remote party may have written are
escaped first: a log line cannot move the cursor of the admin who reads it.
"""

from collections.abc import Container
from typing import Any, NamedTuple

Json = dict[str, Any]
SHORT_HASH = 12
COLOURS = {"good": "32", "busy": "33", "bad": "1;31", "faint": "2", "bold": "1", "event": "36"}
STYLE_OF_STATE = {
    "started": "good",
    "active": "good",
    "armed": "good",
    "failed": "bad",
    "stopped": "faint",
}  # every other state is between two of these: busy
STYLE_OF_PRIORITY = ("bad", "bad", "bad", "bad", "busy", "bold", "", "faint")  # emerg to debug
REFUSALS_SHOWN = 5
LOCAL = {
    "read": "read: changing this machine takes operators' signatures",
    "change": "change: root on this machine may apply what no operator signed",
}


class Cell(NamedTuple):
    """The text of a table's cell and how it is painted."""

    text: str
    style: str = ""


class Painter:
    """Lays out tables and adds colour where the terminal wants it."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def paint(self, text: str, style: str) -> str:
        """Return *text* in the colours of *style*."""
        return f"\x1b[{COLOURS[style]}m{text}\x1b[0m" if self._colour and style and text else text

    def table(
        self, rows: list[list[Cell]], *, head: list[Cell] | None = None, indent: str = "", right: Container[int] = ()
    ) -> list[str]:
        """Return *rows* under *head* with their columns aligned, two spaces apart; a column without content is left out.

        *right*: the columns that are aligned to the right.
        """
        used = [index for index in range(max(map(len, rows), default=0)) if any(row[index].text for row in rows)]
        rows = [head, *rows] if head else rows
        width = {index: max(len(row[index].text) for row in rows) for index in used}
        lines = []
        for row in rows:
            cells = []
            for index in used:
                space = " " * (width[index] - len(row[index].text))
                word = self.paint(row[index].text, row[index].style)
                cells.append(space + word if index in right else word + space)
            lines.append((indent + "  ".join(cells)).rstrip())
        return lines


def clean(text: object) -> str:
    """Return *text* with every character that could steer a terminal written as an escape."""
    return "".join(
        character if character.isprintable() or character == "\t" else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def duration(milliseconds: int) -> str:
    """Return *milliseconds* as people say it: 350 ms, 18.4 s, 14 min 3 s, 2 h 14 min, 3 d 4 h."""
    seconds = max(0, milliseconds) // 1000
    if milliseconds < 1000:
        return f"{max(0, milliseconds)} ms"
    if seconds < 60:
        return f"{milliseconds / 1000:.1f} s" if seconds < 20 else f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def status_lines(status: Json, painter: Painter) -> list[str]:
    """Return what ``mwctl status`` prints: the machine, what to worry about, what runs, what failed."""
    paint = painter.paint
    name = clean(status["hostname"]) or "this machine"
    if not status["root_hash"].strip("0"):  # the root is not ours: ``--supervise`` on some other system
        return _supervisor_lines(name, status, painter)
    lines = [paint(name, "bold") + f"  MilkyWay CoreOS {clean(status['version'])}", ""]
    lines += painter.table(_machine_facts(status), indent="  ")
    lines += _section("", [paint("warning: ", "bad") + each for each in warnings(status)])
    deployments = []
    for deployment in status["deployments"]:
        deployments += painter.table([_deployment_row(deployment)], indent="  ")
        rows = [_service_row(each, status["uptime_ms"]) for each in deployment["services"]]
        deployments += painter.table(rows, indent="    ")
    lines += _section(paint("deployments", "bold"), deployments or ["  none"])
    services = [_service_row(each, status["uptime_ms"]) for each in status["services"]]
    lines += _section(paint("services of CoreOS", "bold"), painter.table(services, indent="  "))
    lines += _section(paint("failed", "bad"), ["  " + each for each in failures(status)])
    refusals = [clean(each) for each in status["refusals"][-REFUSALS_SHOWN:]]
    lines += _section(paint("refused lately", "bold"), ["  " + each for each in refusals])
    return lines


def _supervisor_lines(name: str, status: Json, painter: Painter) -> list[str]:
    lines = [painter.paint(name, "bold") + f"  milkyway-agent {clean(status['version'])}"]
    services = [_service_row(each, status["uptime_ms"]) for each in status["services"]]
    lines += _section(painter.paint("services", "bold"), painter.table(services, indent="  ") or ["  none"])
    lines += _section(painter.paint("failed", "bad"), ["  " + each for each in failures(status)])
    return lines


def warnings(status: Json) -> list[str]:
    """Return what makes this machine less protected than it should be, worst first."""
    found = []
    if status["selinux"] != "enforcing":
        found.append(f"SELinux is {clean(status['selinux'])}: nothing on this machine is confined")
    if status["quarantined"]:
        found.append(f"quarantined, commands are refused: {clean(status['quarantined'])}")
    if status["development"]:
        found.append("development machine: its console gives a login, its disk key is no secret")
    if status["connected"] is False:
        found.append("the control server does not answer; what runs keeps running")
    return found


def failures(status: Json) -> list[str]:
    """Return what failed and why, one line each."""
    found = [f"boot: {clean(each)}" for each in status["boot_failures"]]
    for deployment in status["deployments"]:
        if deployment["state"] == "failed":
            found.append(f"{clean(deployment['name'])}: {clean(deployment['reason']) or 'no reason given'}")
    for service in [*status["services"], *(each for deployment in status["deployments"] for each in deployment["services"])]:
        line = f"{clean(service['name'])}: {clean(service['reason']) or 'no reason given'}"
        if service["state"] == "failed" and not any(each.endswith(line) for each in found):  # its deployment may have said it
            found.append(line)
    return found


def services_lines(body: Json, painter: Painter) -> list[str]:
    """Return the table of ``mwctl services``."""
    names = head("SERVICE", "STATE", "PID", "RESTARTS", "CONTEXT", "REASON")
    rows = [
        [
            Cell(clean(each["name"])),
            _state(each["state"]),
            Cell(str(each["pid"] or "-")),
            Cell(str(each["restarts"])),
            Cell(clean(each["context"]) or "-"),
            Cell(clean(each["reason"])),
        ]
        for each in body["services"]
    ]
    return painter.table(rows, head=names) if rows else ["no services"]


def layers_lines(body: Json, painter: Painter) -> list[str]:
    """Return the table of ``mwctl layers``."""
    names = head("LAYER", "VERSION", "ROOT HASH", "VERITY DEVICE", "USED BY")
    rows = [
        [
            Cell(clean(each["path"])),
            Cell(clean(each["version"])),
            Cell(clean(each["root_hash"])[:SHORT_HASH]),
            Cell(clean(each["verity_device"])),
            Cell(", ".join(map(clean, each["deployments"]))),
        ]
        for each in body["layers"]
    ]
    return painter.table(rows, head=names) if rows else ["no layers are open"]


def deployments_lines(body: Json, painter: Painter) -> list[str]:
    """Return the table of ``mwctl deployments``."""
    names = head("DEPLOYMENT", "STATE", "ID", "GENERATION", "SERVICES", "LAYERS", "REASON")
    rows = [
        [
            Cell(clean(each["name"])),
            _state(each["state"]),
            Cell(clean(each["id"])),
            Cell(str(each["generation"])),
            Cell(f"{sum(service['state'] == 'started' for service in each['services'])}/{len(each['services'])}"),
            Cell(_layers(each)),
            Cell(clean(each["reason"])),
        ]
        for each in body["deployments"]
    ]
    return painter.table(rows, head=names) if rows else ["no deployments"]


def trust_lines(trust: Json, painter: Painter, *, date: Any) -> list[str]:
    """Return what ``mwctl trust`` prints; *date* turns Unix seconds into a day."""
    facts = [
        [Cell("machine", "faint"), Cell(clean(trust["machine"] or "not enrolled"))],
        [Cell("fleet", "faint"), Cell(clean(trust["fleet"] or "none"))],
        [Cell("desired", "faint"), Cell(_version(trust["desired_version"]))],
    ]
    lines = painter.table(facts)
    if trust["quarantined"]:
        lines += ["", painter.paint("warning: ", "bad") + f"quarantined: {clean(trust['quarantined'])}"]
    for root in trust["roots"]:
        thresholds = ", ".join(f"{clean(role)} {number}" for role, number in root["thresholds"].items())
        lines += [
            "",
            painter.paint(f"{clean(root['side'])} root", "bold")
            + f"  version {root['version']}, until {date(root['expires'])}",
        ]
        rows = [
            [Cell("sha256", "faint"), Cell(clean(root["sha256"]))],
            [Cell("persons", "faint"), Cell(", ".join(map(clean, root["persons"])))],
            [Cell("thresholds", "faint"), Cell(thresholds)],
        ]
        if root["side"] == "owner":
            rows.append([Cell("local", "faint"), Cell(LOCAL[root["local"]])])
        lines += painter.table(rows, indent="  ")
    return lines


def log_line(line: Json, painter: Painter, *, moment: Any) -> str:
    """Return one log line; *moment* turns Unix milliseconds into local time."""
    if "error" in line:
        return painter.paint(f"(the log ends here: {clean(line['error']['message'])})", "bad")
    style = STYLE_OF_PRIORITY[line["priority"]] or ("event" if line["stream"] == "event" else "")
    styled = painter.paint(clean(line["text"]), style)
    return f"{painter.paint(moment(line['time_ms']), 'faint')} {painter.paint(clean(line['service']), 'bold')} {styled}"


def service_line(verb: str, address: str, service: Json) -> str:
    """Return the line that says what ``start``, ``stop`` or ``restart`` led to."""
    pid = f", pid {service['pid']}" if service["pid"] else ""
    reason = f": {clean(service['reason'])}" if service["reason"] else ""
    return f"{clean(address)} is {clean(service['state'])}{pid}{reason} (after {verb})"


def _machine_facts(status: Json) -> list[list[Cell]]:
    ready = status["boot_ms"].get("ready")
    up = duration(status["uptime_ms"]) + (f", ready {duration(ready)} after the kernel started" if ready is not None else "")
    enforcing = status["selinux"] == "enforcing"
    facts = [
        ("slot", Cell(clean(status["slot"] or "none"))),
        ("root hash", Cell(clean(status["root_hash"])[:SHORT_HASH])),
        (
            "SELinux",
            Cell(clean(status["selinux"]) if enforcing else clean(status["selinux"]).upper(), "good" if enforcing else "bad"),
        ),
        ("up", Cell(up)),
        ("desired", Cell(_version(status["desired_version"]))),
    ]
    if status["connected"] is not None:
        facts.append(("control", Cell("connected", "good") if status["connected"] else Cell("not connected", "busy")))
    return [[Cell(name, "faint"), cell] for name, cell in facts]


def _deployment_row(deployment: Json) -> list[Cell]:
    return [
        Cell(clean(deployment["name"]), "bold"),
        _state(deployment["state"]),
        Cell(f"generation {deployment['generation']}"),
        Cell(_layers(deployment), "faint"),
    ]


def _service_row(service: Json, uptime_ms: int) -> list[Cell]:
    return [
        Cell(clean(service["name"])),
        _state(service["state"]),
        Cell(clean(service["context"])),
        Cell(f"pid {service['pid']}" if service["pid"] else ""),
        Cell(f"for {duration(uptime_ms - service['since_ms'])}"),
        Cell(f"{service['restarts']} restarts" if service["restarts"] else "", "busy"),
    ]


def _layers(deployment: Json) -> str:
    return ", ".join(f"{clean(each['path'])} {clean(each['version'])}" for each in deployment["layers"])


def _version(version: int) -> str:
    return f"version {version}" if version else "none yet"


def _state(state: str) -> Cell:
    return Cell(clean(state), STYLE_OF_STATE.get(state, "busy"))


def head(*names: str) -> list[Cell]:
    """Return *names* as the head of a table."""
    return [Cell(name, "faint") for name in names]


def _section(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    return ["", title, *lines] if title else ["", *lines]
