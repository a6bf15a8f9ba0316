"""What an operator's change makes of a desired state, and how it is described before it is signed."""

import pytest

from milkyway_control.fleet.desired_changes import (
    ChangeRefusedError,
    bound_data,
    differences,
    empty,
    find,
    given_grants,
    new_id,
    next_version,
    put,
    remove,
)
from milkyway_formats.deployment import DataBinding, LayerPin
from milkyway_formats.desired import Desired
from milkyway_formats.grants import Listen
from milkyway_formats.manifest import DataWanted

HTTP, HTTPS = Listen(protocol="tcp", port=80), Listen(protocol="tcp", port=443)
NOW = 1_900_000_000


def pin(version: str = "1") -> LayerPin:
    return LayerPin(path="example/nginx", version=version, sha256="a" * 64, size=8192, root_hash="b" * 64)


def deployed(base: Desired, version: str = "1", *, name: str = "web", chance: str = "7f3a2c", grant: Listen = HTTP) -> Desired:
    return put(base, name=name, stack=[pin(version)], grants=[grant], data=[], configuration={}, chance=chance)


def nothing() -> Desired:
    return empty("demo", "c" * 64)


def test_a_new_deployment_gets_an_id_and_generation_one() -> None:
    made = find(deployed(nothing()), "web")
    assert made is not None
    assert (made.id, made.generation) == ("d_web_7f3a2c", 1)


def test_the_next_generation_keeps_the_id_and_counts() -> None:
    again = find(deployed(deployed(nothing()), "2", chance="000000"), "web")
    assert again is not None
    assert (again.id, again.generation, again.stack) == ("d_web_7f3a2c", 2, [pin("2")])


def test_a_change_of_grants_is_a_generation_too() -> None:
    again = find(deployed(deployed(nothing()), grant=HTTPS), "web")
    assert again is not None
    assert again.generation == 2


def test_nothing_new_is_refused() -> None:
    with pytest.raises(ChangeRefusedError, match="cannot deploy web: exactly this is deployed already"):
        deployed(deployed(nothing()))


def test_a_removed_deployment_comes_back_under_another_id() -> None:
    back = find(deployed(remove(deployed(nothing()), "web"), chance="123456"), "web")
    assert back is not None
    assert (back.id, back.generation) == ("d_web_123456", 1)


def test_others_stay_as_they_are() -> None:
    two = deployed(deployed(nothing()), name="other-web")
    after = deployed(two, "2")
    assert find(after, "other-web") == find(two, "other-web")
    assert new_id("a-very-long-name-of-a-deployment", "abcdef00") == "d_a_very_long_name_of__abcdef"


def test_a_deployment_that_does_not_exist_is_not_removed() -> None:
    with pytest.raises(ChangeRefusedError, match="cannot remove web: there is no such deployment"):
        remove(nothing(), "web")


def test_the_owner_gives_all_or_some_of_what_is_asked_and_never_more() -> None:
    assert given_grants([HTTP, HTTPS], None) == [HTTP, HTTPS]
    assert given_grants([HTTP, HTTPS], [HTTP]) == [HTTP]
    assert given_grants([HTTP], []) == []
    with pytest.raises(ChangeRefusedError, match="cannot grant listen tcp 443: the layer does not ask for it"):
        given_grants([HTTP], [HTTPS])


def test_data_stays_bound_to_what_it_was_bound_to() -> None:
    wanted = [DataWanted(name="www"), DataWanted(name="cache", data_class="common")]
    first = bound_data("my-web", wanted, [], [], "7f3a2c")
    assert [(binding.source, binding.data_class) for binding in first] == [
        ("my_web_www_7f3a2c", "secure"),
        ("my_web_cache_7f3a2c", "common"),
    ]
    again = bound_data("my-web", wanted, [], [], "000000")
    assert {binding.source for binding in again}.isdisjoint(binding.source for binding in first)
    kept = DataBinding(name="www", source="old_www")
    chosen = DataBinding(name="www", source="chosen")
    assert bound_data("my-web", wanted, [], [kept], "7f3a2c")[0] == kept
    assert bound_data("my-web", wanted, [chosen], [kept], "7f3a2c")[0] == chosen
    with pytest.raises(ChangeRefusedError, match="cannot bind data logs"):
        bound_data("my-web", wanted, [DataBinding(name="logs", source="x")], [], "7f3a2c")


def test_a_version_follows_the_highest_known_and_lives_a_day() -> None:
    document = next_version(deployed(nothing()), nothing(), 7, NOW)
    assert document.version == 8
    assert document.issued == document.not_before <= NOW
    assert document.expires - document.issued == 24 * 3600


def test_the_difference_is_shown_before_signing() -> None:
    base = deployed(deployed(nothing()), name="old")
    after = deployed(remove(base, "old"), "2", grant=HTTPS)
    shown = "\n".join(differences(base, after))
    assert "- deployment old (d_old_7f3a2c); its data stays" in shown
    assert "~ deployment web (d_web_7f3a2c, generation 2)" in shown
    assert f"    - layer example/nginx 1, root hash {'b' * 64}" in shown
    assert f"    + layer example/nginx 2, root hash {'b' * 64}" in shown
    assert "    - grant listen tcp 80\n" in shown + "\n"
    assert "    + grant listen tcp 443" in shown
    assert differences(base, base) == []
