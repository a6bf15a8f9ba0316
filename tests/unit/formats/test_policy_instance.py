"""From an overlay to an instance: grants in their places, names absolute, nothing of the layer's bytes."""

import pytest

from milkyway_formats.deployment import DataBinding
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Grant, HoldCapability, Listen, UseData
from milkyway_formats.overlay import Overlay, check_overlay
from milkyway_formats.policy_instance import domain_types, instance
from milkyway_formats.policy_shared import Placed, shared

LISTEN = Listen(protocol="tcp", port=8080)


def lines(cil: bytes) -> list[str]:
    return [line.strip() for line in cil.decode().splitlines()]


def test_a_layer_without_overlay_gets_the_template_and_its_grants() -> None:
    grants: list[Grant] = [LISTEN, UseData(name="content", access="read")]
    written = lines(instance(Overlay(), "web_1", 2, grants, {"content": "site"}))
    assert written[:5] == [
        "(in web_1",
        "(block v2",
        "(blockinherit .Layer)",
        "(call .listen_tcp (process))",
        "(call .data_read (process .data_site))",
    ]


def test_a_grant_that_the_overlay_places_goes_nowhere_else() -> None:
    overlay = check_overlay(b"(type worker) (call domain (worker)) (call listen_tcp (worker))", grants=[LISTEN])
    written = lines(instance(overlay, "web", 1, [LISTEN]))
    assert "(call .listen_tcp (worker))" in written
    assert "(call .listen_tcp (process))" not in written
    assert "(call .base_layer_domain (worker stack))" in written


def test_reading_uses_a_grant_to_write() -> None:
    grants: list[Grant] = [UseData(name="content")]
    overlay = check_overlay(b"(call data_read (process content))", grants=grants)
    written = lines(instance(overlay, "web", 1, grants, {"content": "site"}))
    assert "(call .data_read (process .data_site))" in written
    assert not any("data_write" in line for line in written)


def test_a_capability_is_forbidden_to_every_domain_that_was_not_granted_it() -> None:
    grants: list[Grant] = [HoldCapability(name="fowner")]
    overlay = check_overlay(b"(type worker) (call domain (worker)) (call capability_fowner (worker))", grants=grants)
    written = lines(instance(overlay, "web", 1, grants))
    for holders, forbidden in (("process", "all"), ("worker", "not (fowner fsetid)")):
        number = next(line for line in written if line.endswith(f"_a ({holders}))") and "holders" in line).split()[1]
        assert f"(neverallow {number} self (capability ({forbidden})))" in written


def test_comments_and_spacing_of_the_layer_do_not_come_through() -> None:
    source = b";;* lmx 1 /etc/passwd\n(allow process\n scratch (file (read))) ; (block x)\n"
    text = instance(check_overlay(source, grants=[]), "web", 1, [])
    assert b"lmx" not in text
    assert b"block x" not in text
    assert b"(allow process scratch (file (read)))" in text


def test_full_names_of_domains() -> None:
    overlay = check_overlay(b"(type worker) (call domain (worker))", grants=[])
    assert domain_types(overlay, "web", 3) == {"process": "web.v3.process", "worker": "web.v3.worker"}


def test_two_generations_share_one_block_and_their_data() -> None:
    data = (DataBinding(name="content", source="site"),)
    placed = [Placed("web", 2, ("web.v2.process",), data), Placed("web", 1, ("web.v1.process",), data)]
    assert lines(shared(placed))[:4] == [
        "(block web)",
        "(type data_site)",
        "(typeattributeset layer_data_a data_site)",
        "(typeattribute but_data_site_a)",
    ]
    assert "(not (web.v1.process web.v2.process))" in shared(placed).decode()


def test_secure_data_belong_to_one_deployment() -> None:
    data = (DataBinding(name="content", source="site"),)
    with pytest.raises(RefusedError) as refused:
        shared([Placed("web", 1, ("web.v1.process",), data), Placed("db", 1, ("db.v1.process",), data)])
    assert str(refused.value) == "cannot share secure data site: deployments db, web are bound to it"


def test_common_data_may_belong_to_several() -> None:
    data = (DataBinding(name="content", source="site", data_class="common"),)
    text = shared([Placed("web", 1, ("web.v1.process",), data), Placed("db", 1, ("db.v1.process",), data)])
    assert b"(not (db.v1.process web.v1.process))" in text
