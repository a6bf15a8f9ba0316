"""The code of a program's modules in memory: handed from the child that has imported them all to the program that will.

Before a supervisor becomes a newer program a child of it imports that program and says whether it can take over
(``reexecution``). What it has imported is then at hand, so the program need not find and read some two hundred files again
while nobody looks after services; and it runs exactly what has been tried. Only modules of Python's own kind are carried,
by the names and places that they have as files. The format is marshal: it comes from a child of ours, through a memory file.

Imported before everything else: by the standard library's smallest modules.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False  # typing's own constant costs its import; checkers take any of that name for true
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    # By the module's name: its code, its file, and of a package its directories.
    Modules = dict[str, tuple[CodeType, str, list[str] | None]]


def gather() -> bytes:
    """Return the code of all modules that are imported now, as ``carry`` takes it."""
    from importlib.machinery import SourceFileLoader

    found: Modules = {}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or type(spec.loader) is not SourceFileLoader:
            continue
        code = spec.loader.get_code(name)
        if code is not None and spec.origin is not None:
            found[name] = (code, spec.origin, spec.submodule_search_locations and list(spec.submodule_search_locations))
    return marshal.dumps(found)


def carry(descriptor: int) -> None:
    """Import from what ``gather`` returned, which the file *descriptor* holds, from now on; it is closed. Undo: ``forget``.

    Raises OSError, EOFError, ValueError or TypeError; then everything is imported from its file.
    """
    try:
        data = posix.pread(descriptor, posix.fstat(descriptor).st_size, 0)
    finally:
        posix.close(descriptor)
    modules = marshal.loads(data)
    if not isinstance(modules, dict):
        raise TypeError("this is not the code of modules")
    sys.meta_path.insert(0, Finder(modules))


def forget() -> None:
    """Import from files again; what nobody has imported is dropped. Twice is the same as once."""
    for finder in [one for one in sys.meta_path if isinstance(one, Finder)]:
        sys.meta_path.remove(finder)


class Finder:
    """Finds the modules that were carried along, before anybody looks for their files. Each is given once."""

    def __init__(self, modules: "Modules") -> None:
        self._modules = modules

    def find_spec(
        self, name: str, _path: "Sequence[str] | None" = None, _target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return how to make the module *name*; None: it was not carried along, or is made already."""
        entry = self._modules.get(name)
        if entry is None:
            return None
        _, file, directories = entry
        # All of a loader that is asked for:
        spec = type(sys.__spec__)(name, self, origin=file, is_package=directories is not None)  # type: ignore[arg-type]
        spec.submodule_search_locations = directories
        spec.has_location = True
        return spec

    def create_module(self, spec: "ModuleSpec") -> None:
        """Leave it to the import system."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run its code."""
        exec(self._modules.pop(module.__name__)[0], module.__dict__)  # noqa: S102 (what imports are)
