"""The rows of services as they count for others: what is on its way out is not there any more, whatever its own table says."""

from collections.abc import Iterator, Mapping

from milkyway_agent.core.service_state import Row, has_process
from milkyway_agent.supervisor.service_record import Attended


class SeenRows(Mapping[str, Row]):
    """The rows of all services by name; one that others are being stopped for counts as stopping."""

    def __init__(self, services: Mapping[str, Attended]) -> None:
        self._services = services

    def __getitem__(self, name: str) -> Row:
        one = self._services[name]
        if one.leaving or one.held:
            return Row.STOPPING
        if one.busy and not has_process(one.row):  # what it left is still being cleared away
            return Row.RESTARTING if one.row is Row.WAITING else Row.STOPPING
        return one.row

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)
