"""``make demo``: one signed push puts a confined nginx onto a booted, verified server; then two forgeries are refused.

Every step is a command that a user could type; none imports a house. The figures go to ``build/demo.json``.
On a terminal everything stays up until Ctrl-C; without one it is shut down at the end.
"""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
DEMO = BUILD / "demo"
KEYS = BUILD / "keys"
LAYERS = BUILD / "layers"
MILKYWAY = ROOT / ".venv/bin/milkyway"
MACHINE = "demo-1"
FROM_INSIDE = "10.0.2.2"  # what QEMU's user network calls the host
ENVIRONMENT = {**os.environ, "MILKYWAY_PASSPHRASE_FILE": str(KEYS / "passphrase"), "MILKYWAY_FLEET": str(DEMO / "fleet")}
READY_SECONDS = 300.0


class DemoFailedError(Exception):
    """A step did not do what it should."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print that a step begins, and how long it took."""
    print(f"· {what} …", flush=True)
    start = time.monotonic()
    yield
    print(f"✓ {what} ({time.monotonic() - start:.1f} s)", flush=True)


def milkyway(*words: str | Path, refused: bool = False) -> str:
    """Run ``milkyway`` and return what it printed. With *refused* it must fail; then return the message."""
    done = subprocess.run(
        [MILKYWAY, *map(str, words)], env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT
    )
    if bool(done.returncode) != refused:
        shown = " ".join(str(word) for word in words)
        raise DemoFailedError(f"milkyway {shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stderr.strip() if refused else done.stdout


def in_machine(*words: str, refused: bool = False) -> str:
    """Run a command in the machine's development shell and return what it printed, or with *refused* its message."""
    return milkyway("vm", "exec", MACHINE, "--", *words, refused=refused)


def stop_machine() -> None:
    """Switch the machine off, if it runs."""
    subprocess.run([MILKYWAY, "vm", "stop", MACHINE], stdin=subprocess.DEVNULL, capture_output=True)


def status() -> dict[str, Any]:
    """Return what ``mwctl status --json`` prints in the machine."""
    found: dict[str, Any] = json.loads(in_machine("mwctl", "status", "--json"))
    return found


def wait_until(what: str, check: Callable[[], Any], seconds: float = READY_SECONDS) -> Any:
    """Call *check* until it returns something true; return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.5)
    raise DemoFailedError(f"{what}: not within {seconds:.0f} s")


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def page(port: int) -> str:
    """Return the page that the machine serves on the forwarded port, or "" while it serves none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except (urllib.error.URLError, OSError):
        return ""


def build() -> dict[str, Path]:
    """Make keys, CoreOS and the layers; return the signed layers by name."""
    with step("keys of vendor, owner and three people"):
        milkyway("keys", "development", KEYS)
    with step("CoreOS: root, kernel, initramfs"):
        milkyway("coreos", "build")
    with step("nginx as a layer over CoreOS"):
        layers = build_layers(ROOT / "examples/nginx/image.yaml", LAYERS)
    with step("carol signs the layers"):
        sign_layers(layers)
    return layers


def build_layers(spec: Path, output: Path) -> dict[str, Path]:
    """Build the layers of *spec* into *output*; return their files by name."""
    built = json.loads(milkyway("layer", "build", spec, "--output", output, "--json"))
    return {layer["path"].split("/")[-1]: ROOT / layer["file"] for layer in built}


def sign_layers(layers: dict[str, Path]) -> None:
    """Sign all of *layers* as carol, who builds them."""
    for file in layers.values():
        milkyway("layer", "sign", file, "--key", KEYS / "carol.key")


class ControlServer:
    """The control server; it keeps its ports when it is stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.ports = {"agent_port": 0, "operator_port": 0}
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        milkyway("control", "init", directory, "--fleet", "demo", "--host", FROM_INSIDE, "--host", "127.0.0.1")

    def start(self) -> None:
        """Start it; return when it listens."""
        command = [str(MILKYWAY), "control", "serve", str(self._directory), "--address", "127.0.0.1", "--json"]
        command += ["--agent-port", str(self.ports["agent_port"]), "--operator-port", str(self.ports["operator_port"])]
        with (DEMO / "control.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=ENVIRONMENT
            )
        assert self._process.stdout is not None, "asked for a pipe"
        self.ports = json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            with self._process as process:
                process.terminate()
            self._process = None


def main() -> int:
    """Run the demo; return the exit code."""
    start = time.monotonic()
    try:
        with ExitStack() as undo:
            run(undo, start)
    except DemoFailedError as error:
        print(f"the demo failed: {error}", file=sys.stderr)
        console = BUILD / "vm" / MACHINE / "console.log"
        if console.exists():
            print("".join(console.read_text(errors="replace").splitlines(keepends=True)[-40:]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
    return 0


class Chain(NamedTuple):
    """A machine that is up, enrolled and serving: what the demo shows and the tests use."""

    layers: dict[str, Path]
    server: ControlServer
    web_port: int
    page: str
    push_to_serving_s: float


def bring_up(undo: ExitStack) -> Chain:
    """Build, serve, boot, enrol, push; *undo* gets callbacks that stop the server and the machine."""
    stop_machine()
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(parents=True)
    layers = build()
    with step("control server"):
        server = ControlServer(DEMO / "control")
        undo.callback(server.stop)
        server.start()
        milkyway(
            "fleet", "connect", "--server", f"127.0.0.1:{server.ports['operator_port']}", "--fleet", "demo",
            "--certificate", DEMO / "control/operator/client.pem", "--ca", DEMO / "control/operator/ca.pem",
            "--vendor-root", KEYS / "vendor-root.json", "--owner-root", KEYS / "owner-root.json",
        )  # fmt: skip
        token = json.loads(milkyway("fleet", "token", MACHINE, "--json"))["token"]
        milkyway(
            "fleet", "secure-config", MACHINE, "--server", f"{FROM_INSIDE}:{server.ports['agent_port']}", "--token", token,
            "--ca", DEMO / "control/ca/ca.pem", "--key", KEYS / "owner-root.key", "--out", DEMO / "secure-config",
        )  # fmt: skip
    web = free_port()
    with step("boot: dm-verity root, SELinux enforcing, PID 1"):
        undo.callback(stop_machine)
        boot(web, "--fresh")
    with step("alice enrols the machine"):
        milkyway("fleet", "enrol", MACHINE, "--key", KEYS / "alice.key", "--wait", "120", "--yes")
        wait_until("connection to the control server", lambda: status()["connected"])
    with step("alice and bob sign the push; nginx serves"):
        pushed = time.monotonic()
        deploy(layers["nginx"], layers, "web")
        served = wait_until("page", lambda: page(web), 120)
        took = time.monotonic() - pushed
    return Chain(layers, server, web, served, took)


def boot(web_port: int, *options: str) -> None:
    """Switch the machine on; return when its boot is finished."""
    forward = ("--forward", f"{web_port}:8080")
    milkyway("vm", "run", MACHINE, *options, "--disk-size", "1G", "--secure-config", DEMO / "secure-config", *forward, "--wait")
    wait_until("boot", lambda: "ready" in status()["boot_ms"])


def run(undo: ExitStack, start: float) -> None:
    """Bring the chain up, show it, try the forgeries; then, on a terminal, stay up."""
    chain = bring_up(undo)
    print(chain.page.strip(), "\n")
    print(in_machine("mwctl", "status"))
    found = status()
    refusals = forge(chain.layers)
    for refusal in refusals:
        print(f"refused: {refusal}")
    figures = measure(found, refusals, chain.push_to_serving_s)
    (BUILD / "demo.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"the demo took {time.monotonic() - start:.0f} s; figures are in build/demo.json")
    if sys.stdout.isatty():
        print(
            f"\nThe page: http://127.0.0.1:{chain.web_port}/   a shell: {MILKYWAY} vm console {MACHINE}\nCtrl-C stops it all."
        )
        while True:
            time.sleep(3600)


def order(layer: Path, layers: dict[str, Path], name: str) -> list[str | Path]:
    """Return the command that deploys *layer* with the libraries among *layers*, without the keys."""
    libraries = [word for file in layers.values() if file != layer for word in ("--library", file)]
    return ["fleet", "deploy", layer, *libraries, "--to", MACHINE, "--name", name, "--yes"]


def deploy(layer: Path, layers: dict[str, Path], name: str) -> None:
    """Deploy *layer*, signed by two persons."""
    milkyway(*order(layer, layers, name), "--key", KEYS / "alice.key", "--key", KEYS / "bob.key")


def forge(layers: dict[str, Path]) -> list[str]:
    """Send a forged document and a tampered layer; return how each was refused."""
    with step("a forged document is refused"):
        forged = forged_document(layers)
        command = (
            f"cat > /tmp/forged.json <<'END'\n{forged}\nEND\ntruncate -s -1 /tmp/forged.json; mwctl apply /tmp/forged.json"
        )
        message = in_machine("sh", "-c", command, refused=True)
    with step("a tampered layer is refused"):
        refusal = tampered_layer()
    return [message, refusal]


def forged_document(layers: dict[str, Path]) -> str:
    """Return a document that was changed after alice and bob had signed it."""
    file = DEMO / "forged.json"
    milkyway(*order(layers["nginx"], layers, "forged"), "--prepare", file)
    for person in ("alice", "bob"):
        milkyway("fleet", "sign", file, "--key", KEYS / f"{person}.key", "--yes")
    envelope = json.loads(file.read_text())
    payload = base64.b64decode(envelope["payload"])
    envelope["payload"] = base64.b64encode(payload.replace(b'"forged"', b'"f0rged"')).decode()
    return json.dumps(envelope, separators=(",", ":"))


def tampered_layer() -> str:
    """Deploy a layer in which the control server changes one byte; return how the machine refuses it."""
    layers = build_layers(ROOT / "examples/nginx/image.yaml", DEMO / "layers")
    sign_layers(layers)
    milkyway("fleet", "upload", *layers.values())
    sha256 = hashlib.sha256(layers["nginx"].read_bytes()).hexdigest()
    (blob,) = (file for file in (DEMO / "control/blobs").rglob("*") if file.name == sha256)
    changed = bytearray(blob.read_bytes())
    changed[5000] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(changed)
    before = len(status()["refusals"])
    deploy(layers["nginx"], layers, "tampered")
    refusals: list[str] = wait_until("refusal of the layer", lambda: status()["refusals"][before:], 60)
    return refusals[-1]


def measure(found: dict[str, Any], refusals: list[str], push_to_serving: float) -> dict[str, Any]:
    """Return the figures of the demo."""
    memory = {process["name"]: process["pss_bytes"] for process in found["processes"]}
    sizes = json.loads((BUILD / "coreos/coreos.json").read_text())["bytes"]
    (web,) = (deployment for deployment in found["deployments"] if deployment["name"] == "web")
    (agent,) = (process for process in found["processes"] if process["pid"] == 1)
    return {
        "selinux": found["selinux"],
        "service_context": web["services"][0]["context"],
        "agent_context": agent["context"],
        "root_hash": found["root_hash"],
        "verity_devices": [layer["verity_device"] for layer in web["layers"]],
        "refusals": refusals,
        "boot_to_pid1_s": found["boot_ms"]["pid1"] / 1000,
        "boot_to_ready_s": found["boot_ms"]["ready"] / 1000,
        "push_to_serving_s": round(push_to_serving, 2),
        "pid1_pss_bytes": agent["pss_bytes"],
        "verifier_pss_bytes": memory["verifier"],
        "uplink_pss_bytes": memory["uplink"],
        "root_image_bytes": sizes["root.img"],
        "kernel_initramfs_bytes": sizes["vmlinuz"] + sizes["initramfs.img"],
    }


if __name__ == "__main__":
    sys.exit(main())
