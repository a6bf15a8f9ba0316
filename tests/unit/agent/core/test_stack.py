"""From layers to the options of an overlay."""

import pytest

from milkyway_agent.core import stack
from milkyway_agent.core.contexts import object_context
from milkyway_formats.deployment import Deployment, LayerPin
from milkyway_formats.errors import RefusedError


def deployment(*hashes: str) -> Deployment:
    pins = [LayerPin(path=f"example/{sha256[0]}", version="1", sha256=sha256, size=1, root_hash=sha256) for sha256 in hashes]
    return Deployment(id="web_1", name="web", generation=3, stack=pins)


A, B = "a" * 64, "b" * 64


def test_the_app_is_topmost_and_coreos_lowest() -> None:
    found = stack.lowerdirs(deployment(A, B), over_coreos=True)
    assert found == (f"/run/milkyway/layers/{A}", f"/run/milkyway/layers/{B}", "/")


def test_a_sealed_stack_does_not_see_coreos() -> None:
    assert "/" not in stack.lowerdirs(deployment(A, B), over_coreos=False)
    assert stack.lowerdirs(deployment(A), over_coreos=False) == (f"/run/milkyway/layers/{A}", stack.EMPTY)


def test_the_options_name_each_level_and_one_context() -> None:
    kind = stack.type_name("web_1", 3, "stack")
    options = stack.overlay_options(("/l/a", "/"), context=object_context(kind))
    assert options == ('lowerdir=/l/a:/,redirect_dir=nofollow,metacopy=off,context="u:object_r:web_1.v3.stack:s0"')
    assert "upperdir" not in options, "no part of a stack is writable"


def test_seventeen_layers_over_coreos_fit_one_page() -> None:
    hashes = [f"{number:064x}" for number in range(17)]
    options = stack.overlay_options(stack.lowerdirs(deployment(*hashes), over_coreos=True), context="u:object_r:x:s0")
    assert len(options) < stack.MAX_OPTIONS_BYTES


@pytest.mark.parametrize("bad", [":", ",", "\\", '"', " "])
def test_a_character_with_a_meaning_is_refused(bad: str) -> None:
    with pytest.raises(RefusedError, match="holds a character that is special to overlayfs"):
        stack.overlay_options(("/a", f"/b{bad}upperdir=/etc"))


def test_one_directory_is_no_stack() -> None:
    with pytest.raises(RefusedError, match="needs two lowerdirs"):
        stack.overlay_options(("/a",))


def test_too_many_levels_are_refused() -> None:
    with pytest.raises(RefusedError, match="cannot stack 100 layers: the mount options are longer than one page"):
        stack.overlay_options([f"/{'x' * 60}{number}" for number in range(100)])
