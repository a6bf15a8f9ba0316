"""The code of a program's modules in memory: passed from the child that has imported them to the program that is about to.

Before a supervisor becomes a newer program, a child of it imports that program and says whether it can take over
(``reexecution``). Then the program need not find and read some two hundred files again while services are not looked
after, because the child has their code; and it runs exactly what was tried. Only modules written in Python are carried,
under the names and paths that they have as files. The format is marshal: it comes from our own child, in a memory file.

Imported before everything else, so it uses only the standard library's smallest modules.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False  # typing's own constant costs an import; type checkers take any constant of this name for true
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    # By the module's name: its code, its file, and a package's directories.
    Modules = dict[str, tuple[CodeType, str, list[str] | None]]


def gather() -> bytes:
    """Return the code of all modules that are imported now, in the form that ``carry`` takes."""
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
    """From now on import what ``gather`` returned, from the file *descriptor*, which is closed. Undo: ``forget``.

    Raises OSError, EOFError, ValueError or TypeError; then all modules are imported from their files.
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
    """Import from files again; code that was not imported is dropped. Idempotent."""
    for finder in [finder for finder in sys.meta_path if isinstance(finder, Finder)]:
        sys.meta_path.remove(finder)


class Finder:
    """Finds the modules that were carried, before their files are looked for. Each is handed out once."""

    def __init__(self, modules: "Modules") -> None:
        self._modules = modules

    def find_spec(
        self, name: str, _path: "Sequence[str] | None" = None, _target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of the module *name*; None if it was not carried, or was handed out already."""
        entry = self._modules.get(name)
        if entry is None:
            return None
        _, file, directories = entry
        # This object has all that the import system uses of a loader.
        spec = type(sys.__spec__)(name, self, origin=file, is_package=directories is not None)  # type: ignore[arg-type]
        spec.submodule_search_locations = directories
        spec.has_location = True
        return spec

    def create_module(self, spec: "ModuleSpec") -> None:
        """Leave that to the import system."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the module's code."""
        exec(self._modules.pop(module.__name__)[0], module.__dict__)  # noqa: S102 (what imports are)
