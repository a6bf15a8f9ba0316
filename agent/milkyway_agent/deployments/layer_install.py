"""Installing layers: each layer that a deployment names is in the store, and its verified manifest is known.

A layer that is installed already is verified once for each verifier; one that is missing, or that the verifier refuses,
is fetched. The verifier checks a fetched file whole before it enters the store. The bytes never pass through this process:
the uplink writes the staging file and the verifier reads it, each by its own descriptor.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from milkyway_agent.core.contexts import object_context
from milkyway_agent.deployments.layer_store import LayerStore
from milkyway_agent.deployments.verifier_link import NotAdmittedError, Note, Verifier
from milkyway_agent.ipc.messages import FetchLayer, LayerVerified, VerifyLayer
from milkyway_agent.system import selinux
from milkyway_formats.deployment import LayerPin
from milkyway_formats.manifest import Manifest
from milkyway_formats.names import Sha256


class LayerInstaller:
    """Has layers verified and fetched, and keeps the manifests of those that the present verifier has passed."""

    def __init__(self, verifier: Verifier, store: LayerStore, note: Note) -> None:
        self._verifier = verifier
        self._store = store
        self._note = note
        self._manifests: dict[Sha256, Manifest] = {}

    async def install(self, pin: LayerPin, *, on_fetch: Callable[[], None]) -> Manifest:
        """Return the verified manifest of *pin*, whose layer is in the store when this returns.

        *on_fetch* is called before a download begins. Raises NotAdmittedError when the verifier refuses what was
        fetched, UnavailableError when it can't be had now (no network, no verifier, no space), OSError.
        """
        if self._store.has(pin.sha256):
            known = self._manifests.get(pin.sha256)
            if known is not None:
                return known
            try:
                return await self._verify_installed(pin)
            except NotAdmittedError as error:  # the file on the disk is not what was installed: fetch it again
                self._note("installed_layer_refused", layer=pin.path, why=str(error))
                self.remove(pin.sha256)
        on_fetch()
        return await self._fetch(pin)

    def forget_verified(self) -> None:
        """Have every layer verified again when it is next needed: a new verifier has verified nothing yet."""
        self._manifests.clear()

    def remove(self, sha256: Sha256) -> None:
        """Remove the installed layer *sha256*, if there is one: when it is next needed it is fetched."""
        self._store.remove(sha256)
        self._manifests.pop(sha256, None)

    def sweep(self, wanted: Collection[Sha256]) -> None:
        """Remove every staging file, and every installed layer not in *wanted*."""
        for sha256 in self._store.sweep(wanted):
            self._note("layer_removed", sha256=sha256)
            self._manifests.pop(sha256, None)

    async def _verify_installed(self, pin: LayerPin) -> Manifest:
        file = os.open(self._store.path(pin.sha256), os.O_RDONLY | os.O_CLOEXEC)
        try:
            question = VerifyLayer(request=self._verifier.number(), sha256=pin.sha256, size=pin.size)
            answer = await self._verifier.ask(question, LayerVerified, [file])
        finally:
            os.close(file)
        self._manifests[pin.sha256] = answer.manifest
        return answer.manifest

    async def _fetch(self, pin: LayerPin) -> Manifest:
        staged = self._store.stage(pin.sha256, pin.size)
        try:
            question = FetchLayer(request=self._verifier.number(), sha256=pin.sha256, size=pin.size)
            answer = await self._verifier.ask(question, LayerVerified, [staged.writer, staged.reader])
            self._store.keep(pin.sha256)
        except BaseException:
            self._store.discard(pin.sha256)
            raise
        finally:
            os.close(staged.writer)
            os.close(staged.reader)
        self._note("layer_installed", layer=pin.path, version=pin.version, bytes=pin.size)
        self._manifests[pin.sha256] = answer.manifest
        return answer.manifest


def protect_installed(path: Path) -> None:
    """Label a verified layer file as installed: from then on the uplink can no longer write to it by its descriptor."""
    selinux.setfilecon(str(path), object_context("layer_store_t"))
