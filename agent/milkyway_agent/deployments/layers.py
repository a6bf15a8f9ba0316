"""The layers' plane: an installed layer file, through a loop and a verity device, becomes a read-only mount."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from milkyway_agent.core import stack
from milkyway_agent.core.contexts import object_context
from milkyway_agent.core.effects import OpenLayer
from milkyway_agent.system import loop, mounts, verity
from milkyway_formats.errors import UnavailableError
from milkyway_formats.manifest import BLOCK_SIZE

_SECTORS_PER_BLOCK = BLOCK_SIZE // 512


class LayerDamagedError(UnavailableError):
    """An installed layer file was changed on the disk. Fetched again, it will be whole."""

    def __init__(self, message: str, *, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


class LayerPlane:
    """Opens layers: loop device, verity device by the root hash of the verified manifest, read-only mount."""

    def __init__(self, path_of: Callable[[str], Path], *, selinux: bool = False) -> None:
        self._path_of = path_of
        # All layers have the same label: which deployment a file belongs to is said by the stack that shows it.
        self._options = f'context="{object_context("layer_image_t")}"' if selinux else ""

    async def do(self, effect: OpenLayer) -> None:
        """Open the layer's file and mount its image."""
        target, name = stack.layer_mount(effect.sha256), stack.layer_device(effect.sha256)
        if mounts.is_mounted(target):
            return
        device = open_verity(name, str(self._path_of(effect.sha256)), effect)
        try:
            Path(target).mkdir(mode=0o755, parents=True, exist_ok=True)
            mounts.mount(device, target, "erofs", mounts.MS_RDONLY | mounts.MS_NODEV | mounts.MS_NOSUID, self._options)
        except OSError as error:
            verity.remove(name)
            # A damaged superblock is found here, as EIO; a damaged block elsewhere when it is read.
            if error.errno == errno.EIO:
                raise LayerDamagedError(
                    f"cannot {effect.describe()}: a block of its image does not match its root hash", sha256=effect.sha256
                ) from error
            raise

    async def undo(self, effect: OpenLayer) -> None:
        """Unmount the image and close its devices. Processes that still read the image keep both until they end."""
        target, name = stack.layer_mount(effect.sha256), stack.layer_device(effect.sha256)
        if mounts.is_mounted(target):
            mounts.umount2(target, mounts.UMOUNT_NOFOLLOW)
        with contextlib.suppress(FileNotFoundError):
            Path(target).rmdir()
        if verity.status(name) is not None:
            verity.remove(name, deferred=True)


def open_verity(name: str, path: str, effect: OpenLayer) -> str:
    """Make the verity device *name* over the layer file *path*; return its path. Undo: ``verity.remove``."""
    image = effect.image
    there = verity.status(name)
    if there is not None:  # an earlier attempt was cut short after this point; its table has the same root hash
        return there.path
    flags = loop.LO_FLAGS_READ_ONLY | loop.LO_FLAGS_AUTOCLEAR | loop.LO_FLAGS_DIRECT_IO
    device, opened = attach_loop(path, flags)
    try:
        verity.create(name)
        try:
            parameters = verity.table(device, data_blocks=image.data_blocks, root_hash=image.root_hash, salt=image.salt)
            verity.load(name, image.data_blocks * _SECTORS_PER_BLOCK, parameters)
            return verity.resume(name)
        except OSError:
            verity.remove(name)
            raise
    finally:
        os.close(opened)  # the verity device has it open by now, or it is not needed


def attach_loop(path: str, flags: int) -> tuple[str, int]:
    """Attach *path* to a free loop device. Another process may take it first, so several are tried."""
    for _ in range(10):
        try:
            return loop.configure(loop.get_free(), path, flags)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    raise UnavailableError(f"cannot open {path}: no loop device stays free")
