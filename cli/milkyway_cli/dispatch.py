"""``milkyway VERB …``: find the house that registered VERB and hand over.

Knows no house: verbs come from the entry points ``milkyway.verbs``, and only the
one that is called is imported, so ``milkyway vm`` does not pay for the control server.
A house raises ``MilkyWayError``; how it is shown is decided here, once for all verbs.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from milkyway_formats.errors import MilkyWayError

GROUP = "milkyway.verbs"


class Verbs(click.Group):
    """A group whose commands are the registered entry points, loaded when called."""

    def _registered(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return every registered verb, sorted."""
        return sorted(self._registered())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        """Return the verb *cmd_name*, importing its house, or None when nobody registered it."""
        point = self._registered().get(cmd_name)
        if point is None:
            return None
        command = point.load()
        assert isinstance(command, click.Command), f"entry point {cmd_name} is not a command"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a MilkyWayError becomes one line (and a hint) on stderr, and the exit code of its family."""
        try:
            return super().invoke(ctx)
        except MilkyWayError as error:
            click.echo(str(error), err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)
            return ctx.exit(error.exit_code)


@click.group(cls=Verbs)
@click.version_option(package_name="milkyway")
def main() -> None:
    """Build, sign, boot and command MilkyWay servers.

    Example: milkyway coreos build && milkyway vm run
    """
