"""`milkyway keys`: a development set that a machine accepts, roots from specs, refusals in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milkyway_cli.dispatch import main
from milkyway_formats.codec import encode
from milkyway_formats.desired import DESIRED_TYPE, Desired
from milkyway_formats.errors import RefusedError
from milkyway_formats.root import RootRefusedError
from milkyway_formats.trust import Trust, verify_root
from milkyway_signing.development import make_development_set
from milkyway_signing.key_file import KeyFileRefusedError
from milkyway_signing.passphrase import load_signers
from milkyway_signing.roots import describe, make_root, read_spec, sign_root
from milkyway_signing.signer import sign_envelope
from tests.fakes.people import NOW

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a development set's directory."""
    directory = tmp_path_factory.mktemp("set") / "keys"
    assert make_development_set(directory, "demo", now=NOW)
    return directory


@pytest.fixture
def run(keys: Path) -> Run:
    """Return a function that calls `milkyway keys` with the set's passphrase."""

    def call(*arguments: str | Path) -> Result:
        environment = {"MILKYWAY_PASSPHRASE_FILE": str(keys / "passphrase")}
        return CliRunner().invoke(main, ["keys", *map(str, arguments)], env=environment)

    return call


def trust_of(keys: Path) -> Trust:
    return Trust.from_envelopes(vendor=(keys / "vendor-root.json").read_bytes(), owner=(keys / "owner-root.json").read_bytes())


def test_the_development_set_is_one_that_a_machine_accepts(keys: Path) -> None:
    trust = trust_of(keys)
    assert trust.fleet == "demo"
    assert [trust.operators.thresholds.of(name) for name in ("restart", "change", "deep")] == [1, 2, 2]
    desired = Desired(
        format="milkyway.desired/1",
        fleet="demo",
        machine="a" * 64,
        version=1,
        issued=NOW,
        not_before=NOW,
        expires=NOW + 60,
    )
    signers = load_signers([keys / "alice.key", keys / "bob.key"], keys / "passphrase", {})
    verified = trust.verify_desired(sign_envelope(DESIRED_TYPE, encode(desired), signers))[1]
    assert verified.persons == {"alice", "bob"}


def test_the_development_set_is_made_once_and_nothing_else_is_overwritten(tmp_path: Path, keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    assert not make_development_set(keys, "demo", now=NOW)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    with pytest.raises(KeyFileRefusedError, match="it exists and is not a set of them"):
        make_development_set(tmp_path, "demo", now=NOW)


def test_an_interrupted_set_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "keys.new").mkdir()
    (tmp_path / "keys.new" / "passphrase").write_text("half a set")
    assert make_development_set(tmp_path / "keys", "demo", now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
    trust_of(tmp_path / "keys")


def test_new_then_show(run: Run, tmp_path: Path) -> None:
    made = run("new", "dave", "--person", "dave", "--out", tmp_path / "k")
    assert made.exit_code == 0, made.output
    shown = run("show", tmp_path / "k" / "dave.key")
    assert "person  dave" in shown.output
    public = json.loads(run("show", tmp_path / "k" / "dave.key", "--json").output)
    assert public["entry"]["key_id"] in made.output
    assert set(public) == {"format", "name", "entry"}
    again = run("new", "dave", "--person", "dave", "--out", tmp_path / "k")
    assert (again.exit_code, again.stderr.splitlines()[0]) == (3, f"cannot write {tmp_path}/k/dave.key: it exists")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("new", "../x", "--person", "p"), 3, "cannot use '../x' as key name"),
        (("new", "x", "--person", "Zoe"), 3, "cannot use 'Zoe' as person"),
        (("show", "/nowhere/x.key"), 4, "cannot read key /nowhere/x.key: No such file or directory"),
        (("show", "/dev/null"), 3, "cannot read key /dev/null: Input data was truncated"),
        (("root", "/nowhere/x", "--key", "/nowhere/k", "--out", "/nowhere/o"), 4, "cannot read root spec /nowhere/x: No such"),
        (("development", "/dev/null"), 3, "cannot make development keys in /dev/null"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(run: Run, arguments: tuple[str, ...], code: int, line: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(line)
    assert "Traceback" not in result.stderr


def next_spec(keys: Path, path: Path, **changes: str) -> Path:
    """Write the owner's spec, with lines changed, to *path*; it names the set's keys by absolute path."""
    text = (keys / "owner-root.yaml").read_text()
    for name in ("owner-root", "alice", "bob", "carol"):
        text = text.replace(f"{name}.key", f"{keys}/{name}.key")
    text = text.replace("days: 365", "days: 100\nversion: 2")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_a_root_is_followed_by_the_next(run: Run, keys: Path, tmp_path: Path) -> None:
    spec = next_spec(keys, tmp_path / "next.yaml")
    out = tmp_path / "next.json"
    made = run("root", spec, "--key", keys / "owner-root.key", "--previous", keys / "owner-root.json", "--out", out)
    assert made.exit_code == 0, made.output
    assert "operators: alice, bob" in made.output
    assert verify_root(out.read_bytes(), trust_of(keys).owner)[0].version == 2
    again = run("root", spec, "--key", keys / "owner-root.key", "--out", out)
    assert (again.exit_code, "it exists" in again.stderr) == (3, True)


def test_a_root_that_a_machine_would_refuse_is_not_written(run: Run, keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.json"
    spec = next_spec(keys, tmp_path / "next.yaml")
    for arguments, reason in (
        ([spec, "--key", keys / "alice.key"], "0 of 1 persons signed"),
        ([spec, "--key", keys / "owner-root.key", "--previous", keys / "vendor-root.json"], "not of the same side"),
        ([spec, "--key", keys / "owner-root.key", "--key", keys / "vendor-root.key"], "unknown key"),
    ):
        result = run("root", *arguments, "--out", out)
        assert (result.exit_code, reason in result.stderr) == (3, True), result.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("keys: [alice, bob]", "keys: [alice, zoe]", "a role names key zoe, which is not listed"),
        ("keys: [alice, bob]", "keys: [alice]", "role operators needs 2 persons and has 1"),
        ("deep: 2", "deep: 17", "`int` <= 16"),
        ("side: owner", "side: vendor", "a vendor commands no fleet"),
        ("days: 100", "days: 0", "`int` >= 1"),
        ("vendor_paths", "vendor_path", "unknown field `vendor_path`"),
        ("/alice.key", "/bob.key", "two keys are named bob"),
    ],
)
def test_a_spec_that_makes_no_root_is_refused(keys: Path, tmp_path: Path, old: str, new: str, reason: str) -> None:
    spec_file = next_spec(keys, tmp_path / "spec.yaml", **{old: new})
    with pytest.raises(RefusedError, match=reason):
        make_root(*read_spec(spec_file), now=NOW)


def test_a_root_can_be_described_in_words(keys: Path) -> None:
    assert describe(trust_of(keys).owner) == [
        "owner root 1 of fleet demo",
        "  root: 1 of olivia",
        "  layers *: 1 of carol",
        "  operators: alice, bob",
        "  persons needed: read 1, restart 1, stop 1, change 2, deep 2",
        "  vendor layers that may run: vendor/*",
    ]


def test_a_set_may_let_root_at_a_machine_change_it(run: Run, tmp_path: Path) -> None:
    made = run("development", tmp_path / "keys", "--local", "change")
    assert made.exit_code == 0, made.output
    owner = trust_of(tmp_path / "keys").owner
    assert owner.local == "change"
    assert "  local: root at a machine may change it without operators" in describe(owner)


def test_sign_root_checks_what_it_signed(keys: Path) -> None:
    spec, entries = read_spec(keys / "owner-root.yaml")
    root = make_root(spec, entries, now=NOW)
    owner = load_signers([keys / "owner-root.key"], keys / "passphrase", {})
    assert verify_root(sign_root(root, owner))[0] == root
    with pytest.raises(RootRefusedError, match="version 1, expected 2"):
        sign_root(root, owner, sign_root(root, owner))
