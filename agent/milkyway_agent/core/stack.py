"""From layers to a stack: which directories overlayfs stacks, and with which options.

A stack has no writable level. Each path that a service may write is mounted into it separately.
"""

from collections.abc import Sequence

from milkyway_formats.deployment import Deployment
from milkyway_formats.errors import RefusedError

LAYERS = "/run/milkyway/layers"
STACKS = "/run/milkyway/stacks"
EMPTY = "/run/milkyway/empty"  # an empty directory; overlayfs needs two lowerdirs if there is no upperdir
COREOS_ROOT = "/"
# The kernel takes one page of options from mount(2), end included (fs/namespace.c, copy_mount_options).
MAX_OPTIONS_BYTES = 4095
_SPECIAL = frozenset(":,\\\"' \n\t")


def layer_mount(sha256: str) -> str:
    """Return where the layer file with this hash is mounted."""
    return f"{LAYERS}/{sha256}"


def layer_device(sha256: str) -> str:
    """Return the name of the layer's verity device."""
    return f"layer-{sha256[:32]}"


def stack_mount(identifier: str, generation: int) -> str:
    """Return where the stack of one version of a deployment is mounted."""
    return f"{STACKS}/{identifier}.v{generation}"


def type_name(identifier: str, generation: int, name: str) -> str:
    """Return the SELinux type *name* of one version of a deployment: a domain of its overlay, ``stack`` or ``scratch``."""
    return f"{identifier}.v{generation}.{name}"


def lowerdirs(deployment: Deployment, *, over_coreos: bool) -> tuple[str, ...]:
    """Return the directories of the deployment's stack, topmost first."""
    layers = tuple(layer_mount(pin.sha256) for pin in deployment.stack)
    if over_coreos:
        return (*layers, COREOS_ROOT)
    return layers if len(layers) > 1 else (*layers, EMPTY)


def overlay_options(directories: Sequence[str], *, context: str = "") -> str:
    """Return overlayfs's options for a read-only overlay of *directories*, topmost first, all of it labelled *context*.

    Raises RefusedError if a directory can't be written as an option, there are too few, or the options are too long.
    """
    if len(directories) < 2:
        raise RefusedError("cannot stack layers: an overlay without an upperdir needs two lowerdirs")
    for directory in directories:
        if _SPECIAL & set(directory):
            raise RefusedError(f"cannot stack layers: {directory!r} holds a character that is special to overlayfs")
    # Redirections and metadata-only copies belong to writable levels: an image that holds their
    # attributes must not be able to point into another layer (overlayfs.rst, "Metadata only copy up").
    options = [f"lowerdir={':'.join(directories)}", "redirect_dir=nofollow", "metacopy=off"]
    if context:
        # Quoted: a level may hold commas, which would end the option.
        options.append(f'context="{context}"')
    text = ",".join(options)
    if len(text.encode()) > MAX_OPTIONS_BYTES:
        raise RefusedError(f"cannot stack {len(directories)} layers: the mount options are longer than one page")
    return text
