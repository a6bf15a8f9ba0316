"""SELinux contexts as text. Imports nothing: the first steps of the boot use it (``pid1.early_boot``)."""


def object_context(kind: str) -> str:
    """Return the context of an object of type *kind*."""
    return f"u:object_r:{kind}:s0"


def process_context(kind: str) -> str:
    """Return the context of a process in domain *kind*."""
    return f"u:r:{kind}:s0"
