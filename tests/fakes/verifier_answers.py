"""A verifier for the deployments' modules, without a process: it knows layers by their hashes, and no signatures."""

import hashlib
import os
from collections.abc import Sequence
from itertools import count
from typing import TypeVar

from milkyway_agent.deployments.verifier_link import NotAdmittedError
from milkyway_agent.ipc.messages import FetchLayer, LayerVerified, ToVerifier, VerifyLayer
from milkyway_formats.deployment import LayerPin
from milkyway_formats.errors import UnavailableError
from milkyway_formats.manifest import Manifest
from tests.fakes.manifests import HASH

AnswerT = TypeVar("AnswerT")


def layer_pin(data: bytes, path: str = "test/web", version: str = "1") -> LayerPin:
    """Return a pin of the layer file with content *data*."""
    return LayerPin(path=path, version=version, sha256=hashlib.sha256(data).hexdigest(), size=len(data), root_hash=HASH)


class FakeVerifier:
    """Implements ``verifier_link.Verifier``, with the uplink behind it.

    ``blobs`` is what the control server has, ``manifests`` what the layers hold, both by hash. While ``gone`` it is not
    there. ``asked``: the requests that it got; ``told``: messages without an answer.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, Manifest] = {}
        self.gone = False
        self.asked: list[ToVerifier] = []
        self.told: list[ToVerifier] = []
        self._numbers = count(1)

    def publish(self, data: bytes, manifest: Manifest, path: str = "test/web", version: str = "1") -> LayerPin:
        """Put a layer file on the control server; return its pin."""
        pin = layer_pin(data, path, version)
        self.blobs[pin.sha256], self.manifests[pin.sha256] = data, manifest
        return pin

    def number(self) -> int:
        return next(self._numbers)

    async def ask(self, message: ToVerifier, kind: type[AnswerT], fds: Sequence[int] = ()) -> AnswerT:
        self.asked.append(message)
        self._check_there()
        match message:
            case VerifyLayer():
                (reader,) = fds
            case FetchLayer():
                writer, reader = fds
                if message.sha256 not in self.blobs:
                    raise UnavailableError(f"cannot fetch layer: no blob {message.sha256[:16]}")
                os.pwrite(writer, self.blobs[message.sha256], 0)
            case _:
                raise AssertionError(f"it can't answer {type(message).__name__}")
        found = hashlib.sha256(os.pread(reader, message.size + 1, 0)).hexdigest()
        if found != message.sha256:
            raise NotAdmittedError(f"cannot accept layer: its SHA-256 is {found[:16]}…", failed_check="layer")
        answer = LayerVerified(request=message.request, manifest=self.manifests[message.sha256], sha256=message.sha256)
        assert isinstance(answer, kind)
        return answer

    async def tell(self, message: ToVerifier, fds: Sequence[int] = ()) -> None:
        assert not fds, "messages without an answer have no descriptors"
        self._check_there()
        self.told.append(message)

    def _check_there(self) -> None:
        if self.gone:
            raise UnavailableError("cannot ask the verifier: it is not running")
