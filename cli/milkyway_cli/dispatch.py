"""``milkyway VERB …``: find the house that registered VERB and hand over.

Knows no house: verbs come from the entry points ``milkyway.verbs``, and only the
one that is called is imported, so ``milkyway vm`` does not pay for the control server.
"""

from importlib.metadata import EntryPoint, entry_points

import click

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


@click.group(cls=Verbs)
@click.version_option(package_name="milkyway")
def main() -> None:
    """Build, sign, boot and command MilkyWay servers.

    Example: milkyway coreos build && milkyway vm run
    """
