"""``mwctl``: the admin's command on a server. Asks the local API, shows the answer, ends with an ExitCode.

Decides nothing and may nothing: the agent asks the kernel who is calling. What people see is laid
out by ``mwctl.screen``, requests are ``mwctl.client``'s.

Under emulation an import costs ten times what it costs natively, so this and what it imports stay
small: argparse (click is not on a server), json and datetime only when used, no httpx (a second
and 22 MiB there), no trio, no msgspec; ``tests/unit/agent/mwctl/test_command.py`` holds that.
"""

import argparse
import os
import sys
from typing import NoReturn

from milkyway_agent.mwctl import client, screen
from milkyway_agent.mwctl.options import make_parser
from milkyway_formats.errors import ExitCode, MilkyWayError, RefusedError, UnavailableError

Json = screen.Json
MAX_ENVELOPE_BYTES = 424_725  # as in milkyway_formats.envelope, which takes too long to import
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
LISTS = {
    "services": screen.services_lines,
    "layers": screen.layers_lines,
    "deployments": screen.deployments_lines,
}
DOINGS = {"reboot": "rebooting", "poweroff": "powering off", "reexec": "re-executing the agent"}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main() -> NoReturn:
    """Run ``mwctl`` with the process's arguments and end the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Carry out *arguments* and return the exit code. Prints; never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # whatever the locale: escape rather than fail
            stream.reconfigure(errors="backslashreplace")
    try:
        options = make_parser().parse_args(arguments)
        code = carry_out(options)
        sys.stdout.flush()
        return code
    except MilkyWayError as error:
        return _say(str(error), error.hint, error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python flushes again at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 (an admin gets one line, whatever happens)
        return _say(f"cannot go on: a bug in mwctl: {type(error).__name__}: {error}", "", ExitCode.BUG)


def carry_out(options: argparse.Namespace) -> int:
    """Ask what *options* say and print the answer."""
    verb = options.verb
    if verb in ("start", "stop", "restart", "reload"):
        service = _ask_json(options, "POST", f"/v1/services/{_quote(options.service, safe='/')}/{verb}")
        _print(options, service, [screen.service_line(verb, options.service, service)])
        return ExitCode.OK if service["state"] != "failed" else ExitCode.UNAVAILABLE
    if verb in ("logs", "events"):
        _show_log(options)
    elif verb in ("tree", "why", "blame", "critical-path"):
        _show_view(options)
    elif verb == "top":
        _show_top(options)
    elif verb == "metrics":
        _show_metrics(options)
    elif verb == "apply":
        applied = _ask_json(options, "POST", "/v1/apply", _read_envelope(options.file))
        version = f" version {applied['version']}" if applied["version"] else ""
        what = "desired state" if applied["kind"] == "desired" else "command"
        detail = f": {applied['detail']}" if applied["detail"] else ""
        _print(options, applied, [screen.clean(f"admitted: {what}{version} ({applied['id']}){detail}")])
    elif verb in DOINGS:
        _print(options, _ask_json(options, "POST", f"/v1/{verb}"), [DOINGS[verb]])
    else:
        answer = _ask_json(options, "GET", f"/v1/{verb}")
        if verb == "status":
            lines = screen.status_lines(answer, _painter())
        elif verb == "trust":
            lines = screen.trust_lines(answer, _painter(), date=_date)
        else:
            lines = LISTS[verb](answer, _painter())
        _print(options, answer, lines)
    return ExitCode.OK


def _ask(options: argparse.Namespace, method: str, target: str, body: bytes = b"", *, endless: bool = False) -> client.Reply:
    path = getattr(options, "socket", client.SOCKET_PATH)
    reply = client.ask(path, method, target, body, seconds=None if endless else client.ANSWER_SECONDS)
    if not 200 <= reply.status < 300:
        raise client.failure(reply.status, reply.read())
    return reply


def _ask_json(options: argparse.Namespace, method: str, target: str, body: bytes = b"") -> Json:
    data = _ask(options, method, target, body).read()
    import json  # late: --help, bad usage and an agent that does not answer need none

    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise MilkyWayError("cannot understand the agent's answer: not a JSON object")
    return answer


def _show_view(options: argparse.Namespace) -> None:
    from milkyway_agent.mwctl import (
        boot,
        views,  # late: other commands need neither
    )

    painter, width = _painter(), _width()
    match options.verb:
        case "tree":
            answer = _ask_json(options, "GET", "/v1/tree")
            lines = views.tree_lines(answer, painter, root=options.service, width=width)
        case "why":
            answer = _ask_json(options, "GET", f"/v1/why/{_quote(options.service, safe='/')}")
            lines = views.why_lines(answer, painter, width=width)
        case "blame":
            answer = _ask_json(options, "GET", "/v1/blame")
            lines = boot.blame_lines(answer, painter, everything=options.everything, width=width)
        case _:
            query = f"?service={_quote(options.service)}" if options.service else ""
            answer = _ask_json(options, "GET", f"/v1/critical-path{query}")
            lines = boot.path_lines(answer, painter, width=width)
    _print(options, answer, lines)


def _show_top(options: argparse.Namespace) -> None:
    from milkyway_agent.mwctl import top

    def ask() -> Json:
        return _ask_json(options, "GET", "/v1/top")

    is_json = getattr(options, "json", False)
    if sys.stdout.isatty() and sys.stdin.isatty() and not options.once and not is_json:
        top.watch(ask, _painter(), sort=options.sort)
        return
    before = ask()
    if is_json:
        _print(options, before, [])
        return
    import time

    time.sleep(top.ONCE_SECONDS)  # rates are differences
    _print(options, before, top.top_lines(ask(), before, _painter(), sort=options.sort))


def _show_metrics(options: argparse.Namespace) -> None:
    if getattr(options, "json", False):
        raise RefusedError("cannot print metrics as JSON: they have a format of their own", hint="`mwctl top --json` is JSON")
    print(_ask(options, "GET", "/v1/metrics").read().decode("utf-8", "backslashreplace"), end="")


def _show_log(options: argparse.Namespace) -> None:
    import json

    from milkyway_agent.mwctl import views

    query = [f"lines={options.lines}"]
    query += [f"names={_quote(','.join(options.names))}"] if options.names else []
    query += [f"since={_seconds('--since', options.since)}"] if options.since else []
    query += [f"until={_seconds('--until', options.until)}"] if options.until else []
    query += [f"priority={_quote(options.priority)}"] if options.priority else []
    query += ["follow=1"] if options.follow else []
    reply = _ask(options, "GET", f"/v1/{options.verb}?" + "&".join(query), endless=options.follow)
    painter = _painter()
    show = screen.log_line if options.verb == "logs" else views.event_line
    for data in reply.lines():
        if getattr(options, "json", False):
            print(data.decode("utf-8", "backslashreplace").rstrip("\n"), flush=options.follow)
        else:
            print(show(json.loads(data), painter, moment=_moment), flush=options.follow)
    if options.follow:
        # Nobody ends a followed log but its reader.
        raise UnavailableError("cannot follow the log further: the agent closed the connection", hint="ask again in a moment")


def _print(options: argparse.Namespace, answer: Json, lines: list[str]) -> None:
    if getattr(options, "json", False):
        import json

        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(lines))


def _width() -> int | None:
    """Return how many columns the terminal has, None where there is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):  # no terminal; no descriptor
        return None


def _painter() -> screen.Painter:
    # https://no-color.org: set and not empty means no colour
    wants = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return screen.Painter(colour=wants and sys.stdout.isatty())


def _read_envelope(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_ENVELOPE_BYTES + 1)
        else:
            with open(name, "rb") as file:  # noqa: PTH123 (pathlib is an import of 5 ms)
                data = file.read(MAX_ENVELOPE_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"cannot read {name}: {error.strerror}") from error
    data = data.removesuffix(b"\n")  # files end with one, envelopes don't
    if not data:
        raise RefusedError(f"cannot apply {name}: it is empty", hint="it should be a signed envelope (DSSE, JSON)")
    if len(data) > MAX_ENVELOPE_BYTES:
        raise RefusedError(f"cannot apply {name}: longer than {MAX_ENVELOPE_BYTES} bytes")
    return data


def _seconds(option: str, text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    if text[-1:] in UNITS and text[:-1].isascii() and text[:-1].isdigit():
        import time

        return max(0, int(time.time()) - int(text[:-1]) * UNITS[text[-1]])
    raise RefusedError(f"cannot read {option} {text!r}: not like 90s, 10m, 2h, 1d or Unix seconds")


def _quote(text: str, safe: str = "") -> str:
    """Percent-encode *text* for a URL (urllib.parse is an import of 5 ms)."""
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~" + safe
    return "".join(chr(byte) if chr(byte) in plain else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def _moment(milliseconds: int) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000)) + f".{milliseconds % 1000:03d}"


def _date(seconds: int) -> str:
    import time

    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _say(message: str, hint: str, code: int) -> int:
    print(screen.clean(message), file=sys.stderr)
    if hint:
        print(f"hint: {screen.clean(hint)}", file=sys.stderr)
    return code
