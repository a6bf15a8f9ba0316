"""Whatever bytes come as orders, replies, layers or messages, the verifier answers and admits nothing."""

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milkyway_agent.ipc.channel import Channel, MessageRefusedError, socket_pair
from milkyway_agent.ipc.messages import Enrolled, FromUplink, FromVerifier, RefusalNoted, Refused, ToUplink, ToVerifier
from tests.fakes.layer_files import make_layer
from tests.fakes.verifier_site import Site, to_pid1

NGINX = make_layer()
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SITE = Site()
SITE.begin()
ORDER = SITE.desired(1)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """Generate bytes that are nearly *data*: some replaced, a piece removed, a piece inserted."""

    def change(where: int, length: int, piece: bytes) -> bytes:
        at = where % len(data)
        return data[:at] + piece + data[at + length :]

    return st.builds(change, st.integers(0, 1 << 30), st.integers(0, 64), st.binary(max_size=32)).filter(
        lambda made: made != data
    )


@FUZZ
@given(st.binary(max_size=2000) | mutated(ORDER))
def test_no_bytes_but_signed_ones_are_an_order(data: bytes) -> None:
    [note] = to_pid1(SITE.push(data), RefusalNoted)
    assert note.message.startswith("cannot ")


@FUZZ
@given(mutated(NGINX.data) | st.binary(max_size=10_000))
def test_no_bytes_but_signed_ones_are_a_layer(data: bytes) -> None:
    """All outside the image passes only as it was signed; dm-verity checks the image's bytes (here: the pin's hash)."""
    image = NGINX.manifest.image.data_blocks * 4096
    if data[image:] == NGINX.data[image:] and len(data) == len(NGINX.data):
        return
    [refused] = to_pid1(SITE.verify(data, NGINX.sha256), Refused)
    assert refused.check != "bug"


@FUZZ
@given(st.text(max_size=500))
def test_no_text_is_an_enrolment_by_chance(text: str) -> None:
    [note] = to_pid1(SITE.verifier.enrolled(Enrolled(reply=text)), RefusalNoted)
    assert note.message.startswith("cannot ")


@FUZZ
@given(st.lists(st.binary(min_size=1, max_size=300) | mutated(b'{"type":"fetched","request":7,"error":"x"}'), max_size=8))
def test_no_datagram_ends_a_channel_before_the_last(datagrams: list[bytes]) -> None:
    """For each union: a datagram is refused or decoded, and the next one is read."""

    async def run() -> None:
        for union in (FromUplink, ToUplink, FromVerifier, ToVerifier):
            raw, end = socket_pair()
            channel: Channel[object, object] = Channel(end, union, peer="peer")
            for datagram in filter(None, datagrams):  # an empty datagram is the end
                raw.send(datagram)
                try:
                    await channel.receive()
                except MessageRefusedError as error:
                    assert str(error).startswith("cannot read a message from peer: ")
            channel.close()
            raw.close()

    trio.run(run)
