"""Probes: finding out whether a service is well. They don't raise, and end soon after their time limit."""

import trio

from milkyway_agent.supervisor.process.commands import environment_for_commands
from milkyway_agent.supervisor.service_record import MainProcess, ServiceRecord
from milkyway_agent.system import processes
from milkyway_formats.errors import MilkyWayError
from milkyway_formats.service import ExecProbe, HttpProbe, Probe, TcpProbe

HEAD_BYTES = 512
LEAST_INTERVAL = 0.01  # seconds: a definition may say 0, which would probe all the time


async def probe(record: ServiceRecord, process: MainProcess, asked: Probe, seconds: float) -> str:
    """Run the probe *asked*; return "" if the service is well, else why not. Never takes much longer than *seconds*."""
    try:
        match asked:
            case TcpProbe(port=port):
                return "" if is_listening(record, process, port) else f"nothing listens on port {port}"
            case HttpProbe(port=port, path=path):
                with trio.fail_after(seconds):
                    return await _get(port, path)
            case ExecProbe(command=command):
                code = await record.definition.starter.execute(command, seconds, environment_for_commands(record))
                if code is None:
                    return f"its probe took longer than {seconds:g} s"
                return "" if code == 0 else f"its probe ended with {code}"
    except trio.TooSlowError:
        return f"no answer within {seconds:g} s"
    except trio.BrokenResourceError:
        return "the connection was broken"
    except (MilkyWayError, OSError) as error:
        return str(error)


def is_listening(record: ServiceRecord, process: MainProcess, port: int) -> bool:
    """Tell whether one of the service's users listens on *port*, by the kernel's table: the service sees no client."""
    users = processes.listening_users(process.child.pid, port)
    allowed = record.definition.users
    return bool(users) and (allowed is None or any(user in allowed for user in users))


async def _get(port: int, path: str) -> str:
    """GET *path* from the loopback interface; return "" for a status from 200 to 399, else why not."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: milkyway\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head and len(head) < HEAD_BYTES:
            data = await stream.receive_some(HEAD_BYTES)
            if not data:
                break
            head += data
    fields = head.split(None, 2)
    if len(fields) < 2 or not fields[0].startswith(b"HTTP/") or not fields[1].isdigit():
        return f"port {port} does not answer in HTTP"
    status = int(fields[1])
    return "" if 200 <= status < 400 else f"GET {path} is answered with {status}"
