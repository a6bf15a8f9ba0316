"""What a supervisor prints: what services write, and what goes wrong."""

import os
from collections.abc import Sequence

from milkyway_agent.log.log import LineSink
from milkyway_agent.log.record import OUTPUT, Record, describe

WARNING = 4


class Printed:
    """Prints records: what services write to standard output, what goes wrong (or all) to standard error."""

    def __init__(self, *, verbose: bool, outputs: bool) -> None:
        self._outputs = outputs
        self._least = 7 if verbose else WARNING
        self._lines = LineSink(lambda line: os.write(2, f"milkyway: {line}\n".encode(errors="replace")))

    def write(self, records: Sequence[Record]) -> None:
        """Print *records*, all of one service."""
        if records and records[0].event == OUTPUT:
            if self._outputs:
                os.write(1, "".join(f"{describe(record)}\n" for record in records).encode(errors="replace"))
            return
        self._lines.write([record for record in records if record.priority <= self._least])
