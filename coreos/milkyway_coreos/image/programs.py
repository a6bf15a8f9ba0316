"""The static C programs of CoreOS, compiled with the tools tree's musl. The same source gives the same bytes."""

import shutil
from pathlib import Path

from milkyway_coreos import tools

FLAGS = (
    "-std=c17", "-Os", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror", "-static", "-s",
    "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-ffile-prefix-map=/mnt=.", "-Wl,-z,noexecstack", "-Wl,--build-id=none",
    # musl brings no kernel headers; the tree's are searched last, so that no header of glibc hides one of musl.
    "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu",
)  # fmt: skip


def compile_program(source: Path, into: Path) -> None:
    """Compile *source* to a static program in *into*, named like the source without ``.c``."""
    shutil.copyfile(source, into / source.name)
    command = ["musl-gcc", *FLAGS, "-o", source.stem, source.name]
    tools.run(tools.chrooted(tools.tools_tree(), into, command))
    (into / source.name).unlink()
