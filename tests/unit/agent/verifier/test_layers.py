"""Layers: the file is what its signers signed, is the one that was asked for, and its policy says nothing it may not."""

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from milkyway_agent.ipc.messages import (
    CheckPolicy,
    DesiredAdmitted,
    Fetch,
    Fetched,
    LayerVerified,
    PolicyChecked,
    RefusalNoted,
    Refused,
    Unavailable,
)
from milkyway_agent.verifier.answers import Arrival, Outgoing
from milkyway_formats.grants import Connect, Listen, UseData
from milkyway_formats.layer_file import FOOTER_BYTES, Section, parse_footer
from milkyway_formats.root import ROOT_TYPE
from tests.fakes.layer_files import LISTEN, MadeLayer, MemoryLayer, make_layer
from tests.fakes.people import ALICE, BOB, CAROL, MALLORY, OLIVIA, OWNER, VENDOR, VERA, VICTOR, signed
from tests.fakes.verifier_site import Site, deployment, for_uplink, to_pid1

NGINX = make_layer()
OPENSSL = make_layer("vendor/openssl", VICTOR, content=b"library", policy=b"", grants=[], kind="library")


@pytest.fixture
def site() -> Site:
    site = Site()
    site.begin()
    return site


def refusal(outgoing: list[Outgoing]) -> tuple[str, str]:
    assert len(outgoing) == 1
    [refused] = to_pid1(outgoing, Refused)
    return refused.check, refused.message


def section(layer: bytes, name: str) -> Section:
    return getattr(parse_footer(layer[-FOOTER_BYTES:], len(layer)), name)  # type: ignore[no-any-return]


def flipped(layer: bytes, position: int) -> bytes:
    return layer[:position] + bytes([layer[position] ^ 1]) + layer[position + 1 :]


def check_policy(site: Site, layer: MadeLayer, generation: int = 1, identifier: str = "web_1") -> tuple[list[Outgoing], bytes]:
    """Ask for the instance's policy; return the answer and what was written."""
    written: list[bytes] = []
    message = CheckPolicy(request=site.request(), deployment=identifier, generation=generation, sha256=layer.sha256)
    return site.verifier.check_policy(message, MemoryLayer(layer.data), written.append), b"".join(written)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_good_layer_is_verified(site: Site) -> None:
    [answer] = to_pid1(site.verify(NGINX.data, NGINX.sha256), LayerVerified)
    assert (answer.sha256, answer.manifest) == (NGINX.sha256, NGINX.manifest)


def test_a_fetched_layer_is_hashed_whole_and_verified(site: Site) -> None:
    file = MemoryLayer(bytes(len(NGINX.data)))
    outgoing = site.fetch(NGINX, file)
    assert for_uplink(outgoing, Fetch) == [Fetch(request=site.requests, sha256=NGINX.sha256, size=len(NGINX.data))]
    assert outgoing[0].fds == (7,)  # type: ignore[union-attr]  # it is for the uplink
    file.data = NGINX.data
    arrival = site.verifier.fetched(Fetched(request=site.requests))
    assert isinstance(arrival, Arrival)
    [answer] = to_pid1(site.verifier.arrived(arrival, hashlib.sha256(file.data).hexdigest(), site.boottime), LayerVerified)
    assert answer.request == site.requests


@pytest.mark.parametrize("name", ["image", "hash_tree", "manifest", "policy", "envelope"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_byte_in_a_fetched_layer_is_refused_wherever_it_is(site: Site, name: str, where: float) -> None:
    of = section(NGINX.data, name)
    data = flipped(NGINX.data, of.offset + int(where * (of.length - 1)))
    site.fetch(NGINX, MemoryLayer(data))
    arrival = site.verifier.fetched(Fetched(request=site.requests))
    assert isinstance(arrival, Arrival)
    check, message = refusal(site.verifier.arrived(arrival, hashlib.sha256(data).hexdigest(), site.boottime))
    assert (check, message.startswith("cannot accept layer: its SHA-256 is")) == ("layer", True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hash_tree", "its hash tree does not have the root hash that its manifest names"),
        ("manifest", "its manifest is not the one in its envelope"),
        ("policy", "its policy overlay is not the one that its manifest names"),
        ("envelope", "cannot"),
    ],
)
def test_an_installed_layer_that_was_changed_is_refused_at_the_next_boot(site: Site, name: str, words: str) -> None:
    """Every byte of the small sections and of the tree's top; the image's own bytes are dm-verity's to refuse on reading."""
    of = section(NGINX.data, name)
    for position in range(of.offset, of.end, 1 if of.length < 100 else 97):
        _check, message = refusal(site.verify(flipped(NGINX.data, position), NGINX.sha256))
        assert words in message


def test_every_byte_of_the_footer_counts(site: Site) -> None:
    for position in range(len(NGINX.data) - FOOTER_BYTES, len(NGINX.data)):
        assert refusal(site.verify(flipped(NGINX.data, position), NGINX.sha256))[1].startswith("cannot read layer: ")


@pytest.mark.parametrize("length", [0, 1, 127, 128, 4096, len(NGINX.data) - 1])
def test_a_layer_that_was_cut_is_refused(site: Site, length: int) -> None:
    assert "bytes, expected" in refusal(site.verify(NGINX.data[:length], NGINX.sha256, len(NGINX.data)))[1]
    assert refusal(site.verify(NGINX.data[:length], NGINX.sha256))[1].startswith("cannot read layer: ")


@pytest.mark.parametrize(
    ("layer", "check", "words"),
    [
        (make_layer("example/nginx", MALLORY), "key-ids", "unknown key"),
        (make_layer("example/nginx", ALICE), "threshold", "0 of 1 persons of the owner signed"),
        (make_layer("example/nginx", VICTOR), "threshold", "0 of 1 persons of the owner signed"),
        (make_layer("vendor/x", VICTOR, kind="library"), "", ""),
    ],
)
def test_only_those_who_may_sign_a_path_do(site: Site, layer: MadeLayer, check: str, words: str) -> None:
    outgoing = site.verify(layer.data, layer.sha256)
    if not check:
        assert to_pid1(outgoing, LayerVerified)
        return
    found, message = refusal(outgoing)
    assert (found, words in message) == (check, True), message


def test_a_new_layer_under_a_root_past_its_date_is_refused_and_an_installed_one_is_not() -> None:
    site = Site()
    site.secure.files["owner-root.json"] = signed(ROOT_TYPE, replace(OWNER, expires=site.now + 60), OLIVIA)
    site.now += 60
    site.begin()
    assert to_pid1(site.verify(NGINX.data, NGINX.sha256), LayerVerified)
    site.fetch(NGINX, MemoryLayer(NGINX.data))
    arrival = site.verifier.fetched(Fetched(request=site.requests))
    assert isinstance(arrival, Arrival)
    check, message = refusal(site.verifier.arrived(arrival, NGINX.sha256, site.boottime))
    assert (check, message) == ("root", "cannot accept layer example/nginx: the owner's root expired 0 s ago")


# --- the uplink's part ------------------------------------------------------------------------------------------------


def test_what_the_uplink_could_not_fetch_may_be_asked_again(site: Site) -> None:
    file = MemoryLayer(b"")
    site.fetch(NGINX, file)
    answers = site.verifier.fetched(Fetched(request=site.requests, error="cannot fetch: not found"))
    assert isinstance(answers, list)
    assert to_pid1(answers, Unavailable) == [Unavailable(request=site.requests, message="cannot fetch: not found")]
    assert file.closed == 1


def test_an_uplink_that_goes_leaves_nothing_unanswered(site: Site) -> None:
    files = [MemoryLayer(b""), MemoryLayer(b"")]
    for file in files:
        site.fetch(NGINX, file)
    assert [answer.request for answer in to_pid1(site.verifier.uplink_gone(), Unavailable)] == [2, 3]
    assert [file.closed for file in files] == [1, 1]
    assert site.verifier.uplink_gone() == []


def test_a_blob_that_nobody_asked_for_is_refused(site: Site) -> None:
    answers = site.verifier.fetched(Fetched(request=99))
    assert isinstance(answers, list)
    assert to_pid1(answers, RefusalNoted)[0].message == "cannot use blob 99: it was not asked for"


def test_a_number_in_use_is_refused(site: Site) -> None:
    site.fetch(NGINX, MemoryLayer(b""))
    site.requests -= 1
    file = MemoryLayer(b"")
    assert refusal(site.fetch(NGINX, file)) == ("request", "cannot fetch layer: its request number is in use")
    assert file.closed == 1


# --- pins and separation ----------------------------------------------------------------------------------------------


def test_a_layer_that_is_not_what_the_deployment_names_is_refused(site: Site) -> None:
    """A well-signed older build in the place of the pinned one: the pin's hash is of the file, so the pin was wrong."""
    pin = replace(NGINX.pin, root_hash="0" * 64)
    site.apply(site.desired(1, deployments=[deployment(NGINX, stack=[pin])]))
    check, message = refusal(site.verify(NGINX.data, NGINX.sha256))
    assert (check, "deployment web names example/nginx 1: path, version or root hash differ" in message) == ("layer", True)


def test_the_layers_own_signer_does_not_count_for_its_deployment(site: Site) -> None:
    """Bob may sign layers and may operate: his layer needs two others. Known before admission, or found at arrival."""
    bobs = make_layer("example/nginx", BOB)
    site.apply(site.desired(1, ALICE, BOB, deployments=[deployment(bobs)]))
    words = "without the layers' own signers (bob) 1 of 2 persons signed"
    check, message = refusal(site.verify(bobs.data, bobs.sha256))
    assert (check, words in message) == ("separation", True), message

    other = Site()
    other.begin()
    assert to_pid1(other.verify(bobs.data, bobs.sha256), LayerVerified), "nobody deployed it yet"
    check, message = refusal(other.apply(other.desired(1, ALICE, BOB, deployments=[deployment(bobs)])))
    assert (check, words in message) == ("separation", True), message
    assert not to_pid1(other.begin(), DesiredAdmitted), "what was refused was not kept"


def test_signers_of_all_layers_of_a_stack_are_taken_together(site: Site) -> None:
    library = make_layer("example/openssl", BOB, content=b"library", policy=b"", grants=[], kind="library")
    site.apply(site.desired(1, ALICE, BOB, deployments=[deployment(NGINX, library)]))
    assert to_pid1(site.verify(NGINX.data, NGINX.sha256), LayerVerified)
    assert refusal(site.verify(library.data, library.sha256))[0] == "separation"


# --- policy -----------------------------------------------------------------------------------------------------------


def ready(site: Site, layer: MadeLayer, **changes: Any) -> None:
    """Admit a desired state with *layer* deployed, and verify it."""
    site.apply(site.desired(1, deployments=[deployment(layer, **changes)]))
    assert to_pid1(site.verify(layer.data, layer.sha256), LayerVerified)


def test_the_instance_of_a_deployment_is_written(site: Site) -> None:
    ready(site, NGINX)
    outgoing, written = check_policy(site, NGINX)
    [answer] = to_pid1(outgoing, PolicyChecked)
    assert answer.domains == {"process": "web_1.v1.process"}
    assert written.startswith(b"(in web_1\n  (block v1\n")
    assert b"(call .listen_tcp (process))" in written


def test_policy_is_made_for_what_was_admitted_alone(site: Site) -> None:
    ready(site, NGINX)
    for generation, identifier in ((2, "web_1"), (1, "web_2")):
        outgoing, written = check_policy(site, NGINX, generation, identifier)
        assert refusal(outgoing)[1].startswith(
            f"cannot make policy: no desired state has generation {generation} of {identifier}"
        )
        assert written == b""


def test_an_upgrade_can_still_have_the_policy_of_the_version_before(site: Site) -> None:
    ready(site, NGINX)
    site.apply(site.desired(2, deployments=[deployment(NGINX, generation=2)]))
    for generation in (1, 2):
        assert to_pid1(check_policy(site, NGINX, generation)[0], PolicyChecked)
    site.apply(site.desired(3))
    assert to_pid1(check_policy(site, NGINX, 2)[0], PolicyChecked)
    assert refusal(check_policy(site, NGINX, 1)[0])[0] == "layer"


def test_no_policy_before_every_layer_of_the_stack_was_verified(site: Site) -> None:
    site.apply(site.desired(1, deployments=[deployment(NGINX, OPENSSL)]))
    assert to_pid1(site.verify(NGINX.data, NGINX.sha256), LayerVerified)
    assert refusal(check_policy(site, NGINX)[0])[1] == "cannot make policy of web: layer vendor/openssl was not verified before"
    assert to_pid1(site.verify(OPENSSL.data, OPENSSL.sha256), LayerVerified)
    assert to_pid1(check_policy(site, NGINX)[0], PolicyChecked)


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        (b"(in agent_t (allow process process (process (ptrace))))", "'in' is not a statement of overlays"),
        (b"(block other (type x))", "'block' is not a statement of overlays"),
        (b"(typepermissive process)", "no domain is ever permissive"),
        (b"(allow process agent_t (process (ptrace)))", "'agent_t' is not a type of this layer"),
        (b"(type agent_t)(call exec_type (agent_t))", "a name of CoreOS' own policy"),
        (b"(call connect_tcp (process))", "the deployment holds no grant for 'connect_tcp'"),
        (b";" * 70_000, "line 1"),
        (b"(((", "line 1"),
        (b"\xff\x00", "line 1"),
    ],
)
def test_an_overlay_that_says_more_than_it_may_is_refused(site: Site, overlay: bytes, words: str) -> None:
    """Though it is well signed: the signer of a layer does not speak for the machine."""
    layer = make_layer(policy=overlay)
    ready(site, layer)
    outgoing, written = check_policy(site, layer)
    check, message = refusal(outgoing)
    assert (check, words in message, written) == ("policy", True, b""), message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"grants": [LISTEN, Listen(protocol="tcp", port=22)]},
            "grants listen tcp 22, which layer example/nginx does not ask for",
        ),
        ({"grants": [Connect(protocol="tcp", port=8080)]}, "grants connect tcp 8080, which layer"),
        ({"grants": []}, "the deployment holds no grant for 'listen_tcp'"),
        ({"grants": [LISTEN, UseData(name="pages")]}, "grants data pages write, which layer"),
    ],
)
def test_a_grant_that_was_not_asked_for_or_not_given_is_on_no_plane(site: Site, changes: dict[str, object], words: str) -> None:
    ready(site, NGINX, **changes)
    check, message = refusal(check_policy(site, NGINX)[0])
    assert (check, words in message) == ("policy", True), message


def test_data_may_be_granted_narrower_but_not_without_a_source(site: Site) -> None:
    layer = make_layer(grants=[LISTEN, UseData(name="pages")])
    ready(site, layer, grants=[LISTEN, UseData(name="pages", access="read")])
    assert "binds no data source to pages" in refusal(check_policy(site, layer)[0])[1]


def test_a_library_is_not_deployed_by_itself(site: Site) -> None:
    ready(site, OPENSSL, grants=[])
    assert "is not an app but of kind library" in refusal(check_policy(site, OPENSSL)[0])[1]


def test_a_layer_file_that_changed_since_it_was_verified_gives_no_policy(site: Site) -> None:
    """Whoever still holds a descriptor to the staging file gains nothing: it is read again."""
    ready(site, NGINX)
    evil = make_layer("example/nginx", CAROL, content=b"evil")
    changed = MadeLayer(flipped(NGINX.data, section(NGINX.data, "policy").offset), NGINX.manifest)
    message = CheckPolicy(request=1, deployment="web_1", generation=1, sha256=NGINX.sha256)
    for file in (changed, evil):
        written: list[bytes] = []
        assert refusal(site.verifier.check_policy(message, MemoryLayer(file.data), written.append))[0] in ("form", "layer")
        assert written == []


def test_the_vendor_is_believed_for_the_vendors_paths() -> None:
    site = Site()
    site.vendor_root = signed(ROOT_TYPE, VENDOR, VERA)
    site.begin()
    assert to_pid1(site.verify(OPENSSL.data, OPENSSL.sha256), LayerVerified)
