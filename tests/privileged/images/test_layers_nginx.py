"""The example's layers, built by the real package manager, mounted as a server stacks them, serving their page.

No dm-verity here (it has its own tests): the images are mounted from the layer files themselves.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from milkyway_layers.assembly import file_sha256, read_layer
from milkyway_layers.build import Built, Workshop, build
from milkyway_layers.engines.apt import AptEngine
from milkyway_layers.engines.engine import Request
from milkyway_layers.progress import ConsoleProgress
from milkyway_layers.signing import check_layer
from milkyway_layers.tools import Tools
from milkyway_layers.tree import write_tree
from milkyway_layers.verity import VerityError

pytestmark = pytest.mark.privileged

PROJECT = Path(__file__).resolve().parents[3]
EXAMPLE = PROJECT / "examples/nginx"
CACHE = PROJECT / "build/layers/cache"

# Runs in namespaces of its own: mounts the stack, starts nginx in it as an ordinary user, prints what it serves.
STACK = """
import json, os, socket, subprocess, sys, time, urllib.request
place, lowers, service = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
lowerdirs = []
for number, lower in enumerate(lowers):
    if lower["image"]:
        at = f"{place}/{number}"
        os.mkdir(at)
        mount("-t", "erofs", "-o", f"ro,loop,sizelimit={lower['size']}", lower["file"], at)
        lowerdirs.append(at)
    elif lower["file"].endswith(".img"):
        at = f"{place}/coreos"
        os.mkdir(at)
        mount("-t", "erofs", "-o", "ro,loop", lower["file"], at)
        lowerdirs.append(at)
    else:
        lowerdirs.append(lower["file"])
stack = f"{place}/stack"
os.mkdir(stack)
mount("-t", "overlay", "-o", "ro,lowerdir=" + ":".join(lowerdirs), "overlay", stack)
user = service["user"]
for scratch in service["scratch"]:
    mount("-t", "tmpfs", "-o", f"noexec,nosuid,nodev,mode=0700,uid={user},gid={user}", "tmpfs", stack + scratch)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
socket.sethostname("web")
def command(*more):
    return ["chroot", f"--userspec={user}:{user}", "--groups=", stack, *service["command"], *more]
tested = subprocess.run(command("-t"), capture_output=True, text=True)
result = {"tested": tested.returncode, "said": tested.stderr}
nginx = subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
deadline = time.monotonic() + 20
while nginx.poll() is None and time.monotonic() < deadline:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=5) as answer:
            result["page"] = answer.read().decode()
        break
    except OSError:
        time.sleep(0.02)
try:
    open(stack + "/srv/www/index.html", "a")
except OSError as error:
    result["write"] = error.strerror
nginx.send_signal(3)
result["log"] = nginx.communicate(timeout=20)[1]
result["ended"] = nginx.returncode
print(json.dumps(result))
"""


class CoreOs(NamedTuple):
    """A CoreOS root, as an image or a folder, and the folder with its ``files.txt``."""

    root: Path
    lists: Path


def workshop(cache: Path) -> Workshop:
    return Workshop(
        engines={"apt": AptEngine(os.environ.get("MILKYWAY_MIRROR"))},
        tools=Tools(PROJECT / "build/tools"),
        cache=cache,
        progress=ConsoleProgress(Console(file=sys.stderr, force_terminal=False)),
    )


@pytest.fixture(scope="session")
def coreos(tmp_path_factory: pytest.TempPathFactory) -> CoreOs:
    """CoreOS if it was built, else a stand-in: Debian's essential packages."""
    real = PROJECT / "build/coreos"
    if (real / "root.img").exists():
        return CoreOs(real / "root.img", real)
    place = tmp_path_factory.mktemp("coreos")
    engine = AptEngine(os.environ.get("MILKYWAY_MIRROR"))
    made = place / "made"
    made.mkdir()
    engine.install(Request("trixie", ()), made, CACHE / "packages")
    root = engine.read(made)
    write_tree(root.tree, root.sources, place / "root")
    (place / "files.txt").write_text(
        "".join(f"{entry.sha256} {entry.mode:04o} /{path}\n" for path, entry in root.tree.items() if entry.kind == "file")
    )
    return CoreOs(place / "root", place)


@pytest.fixture(scope="session")
def over_coreos(coreos: CoreOs, tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    return build(EXAMPLE / "image.yaml", tmp_path_factory.mktemp("layers"), coreos.lists, workshop(CACHE))


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    return build(EXAMPLE / "image-sealed.yaml", tmp_path_factory.mktemp("layers"), Path("none"), workshop(CACHE))


def serve(layers: list[Built], bottom: Path | None, place: Path) -> dict[str, object]:
    """Stack *layers* on *bottom* and return what their service did."""
    lowers = [{"file": str(layer.file), "image": True, "size": layer.manifest.image.data_blocks * 4096} for layer in layers]
    lowers += [{"file": str(bottom), "image": False}] if bottom else []
    service = layers[0].manifest.services[0]
    facts = {"user": service.user, "command": service.command, "scratch": [scratch.path for scratch in service.scratch]}
    namespaces = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--propagation=private"]
    done = subprocess.run(
        [*namespaces, sys.executable, "-c", STACK, str(place), json.dumps(lowers), json.dumps(facts)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def check_served(result: dict[str, object]) -> None:
    assert result["tested"] == 0, result["said"]
    assert "MilkyWay" in str(result.get("page")), result
    assert "served by deployment <code>web</code>" in str(result["page"])
    assert result["write"] == "Read-only file system"
    assert result["ended"] == 0
    assert "start worker processes" in str(result["log"])
    assert "[emerg]" not in str(result["log"])
    assert "[alert]" not in str(result["log"])


def test_nginx_serves_from_app_and_library_over_coreos(over_coreos: list[Built], coreos: CoreOs, tmp_path: Path) -> None:
    app, library = over_coreos
    assert [reference.root_hash for reference in app.manifest.libraries] == [library.manifest.image.root_hash]
    assert {package.name for package in app.manifest.packages} == {"nginx", "nginx-common"}
    assert "libssl3t64" in {package.name for package in library.manifest.packages}
    assert "libc6" not in {package.name for layer in over_coreos for package in layer.manifest.packages}
    check_served(serve(over_coreos, coreos.root, tmp_path))


def test_nginx_serves_sealed_on_its_own_os_base(sealed: list[Built], tmp_path: Path) -> None:
    """No CoreOS anywhere: three layers are the whole stack, and neither apt nor dpkg is in it."""
    app, _, base = sealed
    assert [reference.path for reference in app.manifest.libraries][-1] == base.manifest.path
    assert base.manifest.kind == "base"
    assert {"libc6", "dash"} <= {package.name for package in base.manifest.packages}
    assert not {"apt", "dpkg", "perl-base"} & {package.name for package in base.manifest.packages}
    check_served(serve(sealed, None, tmp_path))


def test_building_again_gives_the_same_bytes(
    over_coreos: list[Built], sealed: list[Built], coreos: CoreOs, tmp_path: Path
) -> None:
    """Everything is made anew except the downloads: roots, images, hash trees, manifests."""
    shutil.copytree(CACHE / "packages", tmp_path / "cache/packages")
    again = build(EXAMPLE / "image.yaml", tmp_path / "out", coreos.lists, workshop(tmp_path / "cache"))
    again += build(EXAMPLE / "image-sealed.yaml", tmp_path / "out", Path("none"), workshop(tmp_path / "cache"))
    assert [layer.sha256 for layer in again] == [layer.sha256 for layer in [*over_coreos, *sealed]]
    assert all(file_sha256(layer.file) == layer.sha256 for layer in again)


def test_one_flipped_byte_anywhere_is_found(over_coreos: list[Built], tmp_path: Path) -> None:
    """In the first block, in the last, in the hash tree; veritysetup made the tree, Python checks it."""
    library = over_coreos[1]
    layer = read_layer(library.file, unsigned=True)
    check_layer(library.file, layer)
    image = layer.sections.image.length
    for offset, why in (
        (1100, "its image has the root hash"),
        (image - 1, "root hash"),
        (image, "its hash tree"),
        (image + 4096, "hash tree"),
    ):
        copy = tmp_path / "copy.layer"
        data = bytearray(library.file.read_bytes())
        data[offset] ^= 1
        copy.write_bytes(data)
        with pytest.raises(VerityError, match=why):
            check_layer(copy, read_layer(copy, unsigned=True))
