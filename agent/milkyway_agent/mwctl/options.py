"""The commands of ``mwctl`` with their options and help, each with a working example."""

import argparse

SERVICE = "web/nginx or dhcp"
SORTS = ("cpu", "memory", "tasks", "io", "name")


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
    verb("trust", "Show whose signatures this machine accepts.", "mwctl trust")
    tree = verb("tree", "Show what each service needs, its state and why.", "mwctl tree web/nginx")
    tree.add_argument("service", nargs="?", default="", metavar="SERVICE", help="only this service and what it needs")
    why = verb("why", "Explain why a service is in its state: what it waits for, who wants it.", "mwctl why web/nginx")
    why.add_argument("service", metavar="SERVICE", help=SERVICE)
    blame = verb("blame", "List how long each service took to come up, the longest first.", "mwctl blame")
    blame.add_argument("--all", action="store_true", dest="everything", help="include what was started after the boot")
    path = verb("critical-path", "Show which services held up the boot, or one service.", "mwctl critical-path web/nginx")
    path.add_argument("service", nargs="?", default="", metavar="SERVICE", help="default: the service that was ready last")
    top = verb("top", "Show what services use, refreshed every two seconds; q quits.", "mwctl top --sort memory")
    top.add_argument("--once", action="store_true", help="print it once, which is the default without a terminal")
    top.add_argument("--sort", choices=SORTS, default="cpu", help="what to sort by (default cpu)")
    verb("metrics", "Print everything as Prometheus metrics.", "mwctl metrics")
    _add_log_options(verb("logs", "Show log lines, oldest first.", "mwctl logs web dhcp -f -n 20 --priority warning"))
    _add_log_options(verb("events", "Show what happened to services, oldest first.", "mwctl events web -f -n 20"))
    for name, text in (
        ("start", "Start a service that was stopped."),
        ("stop", "Stop a service until it is started or the machine boots."),
        ("restart", "Stop a service and start it again."),
        ("reload", "Have a service read its configuration again."),
    ):
        verb(name, text, f"mwctl {name} web/nginx").add_argument("service", metavar="SERVICE", help=SERVICE)
    apply = verb(
        "apply", "Submit a signed envelope: a desired state or a command (unsigned: see trust).", "mwctl apply desired.json"
    )
    apply.add_argument("file", metavar="FILE", help="the envelope; - reads standard input")
    verb("reexec", "Have the agent become its newest version; services keep running.", "mwctl reexec")
    verb("reboot", "Stop everything in order and boot again.", "mwctl reboot")
    verb("poweroff", "Stop everything in order and switch off.", "mwctl poweroff")
    return parser


def _add_log_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="services (web/nginx, dhcp, agent) or deployments (web); default all"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new lines until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="how many past lines (default 100)")
    parser.add_argument("--since", metavar="T", help="only newer lines: 90s, 10m, 2h, 1d ago, or Unix seconds")
    parser.add_argument("--until", metavar="T", help="only older lines, T as above")
    parser.add_argument("--priority", metavar="P", help="only this severe or worse: 0 to 7, or emerg … err, warning … debug")


def _formatter(prog: str) -> argparse.HelpFormatter:
    # A fixed width: to find out the terminal's, argparse imports shutil with all its compressors at every start.
    return argparse.RawDescriptionHelpFormatter(prog, width=100)
