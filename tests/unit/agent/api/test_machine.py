"""The shapes of the answers: every field is named, and every service and layer once."""

import msgspec

from milkyway_agent.api.machine import layers_of, plain, services_of
from milkyway_formats.report import Status
from tests.fakes.machine import STATUS


def test_what_programs_get_names_every_field_and_is_still_the_document() -> None:
    empty = msgspec.structs.replace(STATUS, services=[], deployments=[], processes=[])
    shown = plain(empty)
    assert shown["deployments"] == []
    assert shown["quarantined"] == ""
    assert msgspec.convert(shown, Status) == empty


def test_services_are_addressed_and_layers_named_once() -> None:
    assert [each.name for each in services_of(STATUS)] == ["dhcp", "time", "web/nginx"]
    twin = msgspec.structs.replace(STATUS.deployments[0], name="shop", id="shop_1")
    both = msgspec.structs.replace(STATUS, deployments=[*STATUS.deployments, twin])
    assert [(each.path, each.deployments) for each in layers_of(both)] == [
        ("example/nginx", ["web", "shop"]),
        ("example/libraries", ["web", "shop"]),
    ]
