"""``mwctl``: the admin's command on a server. Asks the local API, shows the answer, ends with an ExitCode.

Decides nothing and may nothing: the agent asks the kernel who is calling. What people see is laid
out by ``mwctl_screen``, requests are ``mwctl_client``'s.

Under emulation an import costs ten times what it costs natively, so this and what it imports stay
small: argparse (click is not on a server), json and datetime only when used, no httpx (a second
and 22 MiB there), no trio, no msgspec; ``tests/unit/test_agent_mwctl.py`` holds that.
"""

import argparse
import os
import sys
from typing import NoReturn

from milkyway_agent import mwctl_client, mwctl_screen
from milkyway_formats.errors import ExitCode, MilkyWayError, RefusedError, UnavailableError

Json = mwctl_screen.Json
MAX_ENVELOPE_BYTES = 256 * 1024
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
LISTS = {
    "services": mwctl_screen.services_lines,
    "layers": mwctl_screen.layers_lines,
    "deployments": mwctl_screen.deployments_lines,
}
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
    if verb in ("start", "stop", "restart"):
        service = _ask_json(options, "POST", f"/v1/services/{_quote(options.service, safe='/')}/{verb}")
        _print(options, service, [mwctl_screen.service_line(verb, options.service, service)])
        return ExitCode.OK if service["state"] != "failed" else ExitCode.UNAVAILABLE
    if verb == "logs":
        _show_logs(options)
    elif verb == "apply":
        applied = _ask_json(options, "POST", "/v1/apply", _read_envelope(options.file))
        version = f" version {applied['version']}" if applied["version"] else ""
        what = "desired state" if applied["kind"] == "desired" else "command"
        detail = f": {applied['detail']}" if applied["detail"] else ""
        _print(options, applied, [mwctl_screen.clean(f"admitted: {what}{version} ({applied['id']}){detail}")])
    elif verb in ("reboot", "poweroff"):
        answer = _ask_json(options, "POST", f"/v1/{verb}")
        _print(options, answer, ["rebooting" if verb == "reboot" else "powering off"])
    else:
        answer = _ask_json(options, "GET", f"/v1/{verb}")
        if verb == "status":
            lines = mwctl_screen.status_lines(answer, _painter())
        elif verb == "trust":
            lines = mwctl_screen.trust_lines(answer, _painter(), date=_date)
        else:
            lines = LISTS[verb](answer, _painter())
        _print(options, answer, lines)
    return ExitCode.OK


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    shared = argparse.ArgumentParser(add_help=False, formatter_class=_formatter)
    # SUPPRESS: given before the verb, it must not be overwritten by the verb's default
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for programs")
    shared.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the agent's socket")
    parser = argparse.ArgumentParser(
        prog="mwctl",
        description="Show and command this MilkyWay server.",
        epilog="example: mwctl status\n\nexit codes: 0 done, 1 a bug, 2 wrong usage, 3 refused, 4 not available now",
        formatter_class=_formatter,
        parents=[shared],
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(prog="mwctl", dest="verb", metavar="COMMAND", required=True)

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text[0].lower() + text[1:].rstrip("."),
            description=text,
            epilog=f"example: {example}",
            formatter_class=_formatter,
            parents=[shared],
            allow_abbrev=False,
        )

    verb("status", "Show the machine: what protects it, what runs, what failed.", "mwctl status --json")
    verb("services", "List every service with its state and SELinux context.", "mwctl services")
    verb("layers", "List the open layers with their verity devices.", "mwctl layers")
    verb("deployments", "List the deployments.", "mwctl deployments")
    verb("trust", "Show whose signatures this machine takes.", "mwctl trust")
    logs = verb("logs", "Show log lines, oldest first.", "mwctl logs web dhcp -f -n 20 --priority warning")
    logs.add_argument(
        "names", nargs="*", metavar="NAME", help="services (web/nginx, dhcp, agent) or deployments (web); default all"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on with every new line until Ctrl-C")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="how many past lines (default 100)")
    logs.add_argument("--since", metavar="T", help="only newer lines: 90s, 10m, 2h, 1d ago, or Unix seconds")
    logs.add_argument("--until", metavar="T", help="only older lines, T as above")
    logs.add_argument("--priority", metavar="P", help="only as grave or worse: 0 to 7, or emerg … err, warning … debug")
    for name, text in (
        ("start", "Start a service that was stopped."),
        ("stop", "Stop a service until it is started or the machine boots."),
        ("restart", "Stop a service and start it again."),
    ):
        verb(name, text, f"mwctl {name} web/nginx").add_argument("service", metavar="SERVICE", help="web/nginx or dhcp")
    apply = verb(
        "apply", "Hand in a signed envelope: a desired state or a command (unsigned: see trust).", "mwctl apply desired.json"
    )
    apply.add_argument("file", metavar="FILE", help="the envelope; - reads standard input")
    verb("reboot", "Stop everything in order and boot again.", "mwctl reboot")
    verb("poweroff", "Stop everything in order and switch off.", "mwctl poweroff")
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    # A width of its own: to find out the terminal's, argparse imports shutil with all its compressors at every start.
    return argparse.RawDescriptionHelpFormatter(prog, width=100)


def _ask(
    options: argparse.Namespace, method: str, target: str, body: bytes = b"", *, endless: bool = False
) -> mwctl_client.Reply:
    path = getattr(options, "socket", mwctl_client.SOCKET_PATH)
    reply = mwctl_client.ask(path, method, target, body, seconds=None if endless else mwctl_client.ANSWER_SECONDS)
    if not 200 <= reply.status < 300:
        raise mwctl_client.failure(reply.status, reply.read())
    return reply


def _ask_json(options: argparse.Namespace, method: str, target: str, body: bytes = b"") -> Json:
    data = _ask(options, method, target, body).read()
    import json  # late: --help, bad usage and an agent that does not answer need none

    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise MilkyWayError("cannot understand the agent's answer: not a JSON object")
    return answer


def _show_logs(options: argparse.Namespace) -> None:
    import json

    query = [f"lines={options.lines}"]
    query += [f"names={_quote(','.join(options.names))}"] if options.names else []
    query += [f"since={_seconds('--since', options.since)}"] if options.since else []
    query += [f"until={_seconds('--until', options.until)}"] if options.until else []
    query += [f"priority={_quote(options.priority)}"] if options.priority else []
    query += ["follow=1"] if options.follow else []
    reply = _ask(options, "GET", "/v1/logs?" + "&".join(query), endless=options.follow)
    painter = _painter()
    for data in reply.lines():
        if getattr(options, "json", False):
            print(data.decode("utf-8", "backslashreplace").rstrip("\n"), flush=options.follow)
        else:
            print(mwctl_screen.log_line(json.loads(data), painter, moment=_moment), flush=options.follow)
    if options.follow:
        # Nobody ends a followed log but its reader.
        raise UnavailableError("cannot follow the log further: the agent closed the connection", hint="ask again in a moment")


def _print(options: argparse.Namespace, answer: Json, lines: list[str]) -> None:
    if getattr(options, "json", False):
        import json

        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(lines))


def _painter() -> mwctl_screen.Painter:
    # https://no-color.org: set and not empty means no colour
    wants = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return mwctl_screen.Painter(colour=wants and sys.stdout.isatty())


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
    print(mwctl_screen.clean(message), file=sys.stderr)
    if hint:
        print(f"hint: {mwctl_screen.clean(hint)}", file=sys.stderr)
    return code
