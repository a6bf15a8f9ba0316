"""Run tests over a mutant in a process of its own: ``python -m tests.mutation.runner MODULE FILE TEST…``.

FILE has the mutant's text, which is imported as MODULE; nothing on the disk is touched. Exits as pytest does.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings


class MutantLoader(importlib.machinery.SourceFileLoader):
    """Loads a module from another text than its file's, and leaves no compiled file."""

    text = b""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the mutant."""
        return compile(self.text, self.path, "exec")


class MutantFinder:
    """Finds one module, as a mutant."""

    def __init__(self, module: str, text: bytes) -> None:
        self._module = module
        self._text = text

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how to make the module *name*; None: it is another, and is as it is."""
        if name != self._module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.origin is not None, f"there is no module {name}"
        loader = MutantLoader(name, spec.origin)
        loader.text = self._text
        return importlib.util.spec_from_file_location(name, spec.origin, loader=loader)


def main(module: str, file: str, tests: list[str]) -> int:
    """Run *tests* with *module* as the text in *file* has it."""
    with open(file, "rb") as opened:  # noqa: PTH123 (as quick as can be: it is run some hundred times)
        text = opened.read()
    sys.meta_path.insert(0, MutantFinder(module, text))
    # To find a failing example is enough: a smaller one is nobody's to read. The same examples for each mutant.
    settings.register_profile(
        "mutation", phases=[Phase.generate], derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("mutation")
    return int(
        pytest.main(
            ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
