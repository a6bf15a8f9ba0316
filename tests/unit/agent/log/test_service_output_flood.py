"""A real process that writes as fast as it can, read by a loop that has other streams to serve."""

import os
import select
import subprocess
import tracemalloc
from contextlib import closing
from pathlib import Path

from milkyway_agent.log.files import FileSink
from milkyway_agent.log.log import Log
from milkyway_agent.log.service_output import AT_ONCE, Share, Stream
from tests.fakes.log_records import read_records

ROUNDS = 1000
ROUND_SECONDS = 0.01  # of the loop's clock, which is the test's
TOTAL_BYTES = 1 << 20


def test_a_flood_costs_only_the_service_that_makes_it(tmp_path: Path) -> None:
    log = Log(lambda: 1)
    files = FileSink(str(tmp_path), file_bytes=100_000, total_bytes=TOTAL_BYTES)
    log.open_files(files)
    flooded, flooding = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(flooded, False)
    quiet, quietly = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    flood = subprocess.Popen(["yes", "everybody must read this"], stdout=flooding)
    os.close(flooding)
    streams = {flooded: Stream(flooded, "flood", log), quiet: Stream(quiet, "quiet", log)}
    paused: dict[int, float] = {}
    try:
        with closing(select.epoll()) as epoll:
            for descriptor in streams:
                epoll.register(descriptor, select.EPOLLIN)
            tracemalloc.start()
            for number in range(ROUNDS):
                now = number * ROUND_SECONDS
                for descriptor in [descriptor for descriptor, until in paused.items() if until <= now]:
                    del paused[descriptor]
                    epoll.register(descriptor, select.EPOLLIN)
                os.write(quietly, f"<4>{number}\n".encode())
                for descriptor, _ in epoll.poll():
                    again = streams[descriptor].ready(now)
                    if again != AT_ONCE:
                        epoll.unregister(descriptor)
                        paused[descriptor] = again
            peak = tracemalloc.get_traced_memory()[1]
        assert flood.poll() is None, "the flood still writes, or waits to"
    finally:
        tracemalloc.stop()
        flood.kill()
        flood.wait()
        for descriptor in (flooded, quiet, quietly):
            os.close(descriptor)
        log.close_files()
    kept = FileSink(str(tmp_path), file_bytes=100_000, total_bytes=TOTAL_BYTES)
    assert [record.facts["line"] for record in read_records(kept, "quiet")][-900:] == [
        str(number) for number in range(100, ROUNDS)
    ]
    dropped = sum(int(str(record.facts["lines"])) for record in read_records(kept, "flood") if record.event == "output_dropped")
    assert dropped > 0
    share = Share()
    assert peak < 4 << 20
    assert len(list(read_records(kept, "flood"))) <= share.burst + share.rate * ROUNDS * ROUND_SECONDS * 1.1
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= TOTAL_BYTES
    kept.close()
