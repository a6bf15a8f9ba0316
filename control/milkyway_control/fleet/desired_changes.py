"""Desired states as an operator changes them: one deployment put in or taken out, and the difference in words. Pure.

What comes out is rendered here, on the operator's machine, from what the operator's tool has verified;
the server's page has no part in it. Time and chance are arguments.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from milkyway_formats.command import LONGEST_LIFE_SECONDS
from milkyway_formats.deployment import DataBinding, Deployment, LayerPin
from milkyway_formats.desired import Desired
from milkyway_formats.errors import RefusedError
from milkyway_formats.grants import Grant, describe
from milkyway_formats.manifest import DataWanted
from milkyway_formats.names import DeploymentName, FleetId, Identifier, MachineId, UnixSeconds

# A machine whose clock is a little behind still takes what was signed just now.
BACKDATED_S = 60


class ChangeRefusedError(RefusedError):
    """The change makes no sense on what is there."""


def new_id(name: DeploymentName, chance: str) -> Identifier:
    """Return the id of a new deployment: its name and six hexadecimal digits of *chance*, so that no id comes twice."""
    return f"d_{name.replace('-', '_')[:20]}_{chance[:6]}"


def given_grants(wanted: Sequence[Grant], chosen: Sequence[Grant] | None) -> list[Grant]:
    """Return what is granted: all that the layer asks for, or what the owner chose of it; more has no effect and is refused."""
    if chosen is None:
        return list(wanted)
    for grant in chosen:
        if grant not in wanted:
            raise ChangeRefusedError(f"cannot grant {describe(grant)}: the layer does not ask for it")
    return list(chosen)


def bound_data(
    name: DeploymentName,
    wanted: Sequence[DataWanted],
    chosen: Sequence[DataBinding],
    before: Sequence[DataBinding],
    chance: str,
) -> list[DataBinding]:
    """Return which data source stands behind each name: the owner's choice, else what was bound before, else a new one.

    A new one's id holds six digits of *chance*: a deployment gets old data because its owner says so, and never by
    having the name of one that was removed.
    """
    unknown = {binding.name for binding in chosen} - {want.name for want in wanted}
    if unknown:
        raise ChangeRefusedError(f"cannot bind data {sorted(unknown)[0]}: the layer does not ask for it")
    known = {binding.name: binding for binding in (*before, *chosen)}
    return [
        known.get(want.name)
        or DataBinding(
            name=want.name, source=f"{f'{name}_{want.name}'.replace('-', '_')[:25]}_{chance[:6]}", data_class=want.data_class
        )
        for want in wanted
    ]


def put(
    base: Desired,
    *,
    name: DeploymentName,
    stack: list[LayerPin],
    grants: list[Grant],
    data: list[DataBinding],
    configuration: dict[str, str],
    chance: str,
) -> Desired:
    """Return *base* with deployment *name* being this: a new one with a new id, or the next generation of the old."""
    before = find(base, name)
    after = Deployment(
        id=before.id if before else new_id(name, chance),
        name=name,
        generation=before.generation if before else 1,
        stack=stack,
        grants=grants,
        data=data,
        configuration=configuration,
    )
    if after == before:
        raise ChangeRefusedError(f"cannot deploy {name}: exactly this is deployed already")
    if before is not None:
        after = replace(after, generation=before.generation + 1)
    return replace(base, deployments=[*(one for one in base.deployments if one.name != name), after])


def remove(base: Desired, name: DeploymentName) -> Desired:
    """Return *base* without deployment *name*. Its data stays on the machine."""
    if find(base, name) is None:
        raise ChangeRefusedError(f"cannot remove {name}: there is no such deployment")
    return replace(base, deployments=[one for one in base.deployments if one.name != name])


def find(desired: Desired, name: DeploymentName) -> Deployment | None:
    """Return the deployment *name*, or None."""
    return next((one for one in desired.deployments if one.name == name), None)


def empty(fleet: FleetId, machine: MachineId) -> Desired:
    """Return what a machine starts from: version 0 of nothing, which is never sent."""
    return Desired(format="milkyway.desired/1", fleet=fleet, machine=machine, version=0, issued=0, not_before=0, expires=0)


def next_version(changed: Desired, base: Desired, highest: int, now: UnixSeconds) -> Desired:
    """Return *changed* as the version after *base* and after the *highest* that is known, valid from now on for a day."""
    issued = now - BACKDATED_S
    return replace(
        changed,
        version=max(base.version, highest) + 1,
        issued=issued,
        not_before=issued,
        expires=issued + LONGEST_LIFE_SECONDS["change"],
    )


def differences(before: Desired, after: Desired) -> list[str]:
    """Return what *after* changes, one line for each: what an operator reads before signing."""
    lines: list[str] = []
    old = {one.name: one for one in before.deployments}
    new = {one.name: one for one in after.deployments}
    for name in sorted(old.keys() | new.keys()):
        was, becomes = old.get(name), new.get(name)
        if was == becomes:
            continue
        if becomes is None:
            assert was is not None, "a name comes from one of the two"
            lines.append(f"- deployment {name} ({was.id}); its data stays")
            continue
        sign = "~" if was else "+"
        lines.append(f"{sign} deployment {name} ({becomes.id}, generation {becomes.generation})")
        lines += _changed("layer", [_pin(pin) for pin in was.stack] if was else [], [_pin(pin) for pin in becomes.stack])
        lines += _changed(
            "grant", [describe(one) for one in was.grants] if was else [], [describe(one) for one in becomes.grants]
        )
        lines += _changed("data", [_binding(one) for one in was.data] if was else [], [_binding(one) for one in becomes.data])
        lines += _changed("setting", _settings(was) if was else [], _settings(becomes))
    return lines


def _changed(what: str, before: list[str], after: list[str]) -> list[str]:
    return [
        *(f"    - {what} {one}" for one in before if one not in after),
        *(f"    {'  ' if one in before else '+ '}{what} {one}" for one in after),
    ]


def _pin(pin: LayerPin) -> str:
    return f"{pin.path} {pin.version}, root hash {pin.root_hash}, file {pin.sha256[:16]}… ({pin.size} bytes)"


def _binding(binding: DataBinding) -> str:
    return f"{binding.name} in {binding.source} ({binding.data_class})"


def _settings(deployment: Deployment) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(deployment.configuration.items())]
