"""Desired states as an operator changes them: a deployment put in or taken out, and the difference in words. Pure.

Everything is rendered here, on the operator's machine, from what the operator's tool has verified; the server
has no part in it. Time and chance are arguments.
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

# A machine whose clock is a little slow still accepts what was signed just now.
BACKDATED_S = 60


class ChangeRefusedError(RefusedError):
    """The change makes no sense for the present desired state."""


def new_id(name: DeploymentName, chance: str) -> Identifier:
    """Return the id of a new deployment: its name and six hexadecimal digits of *chance*, so that no id is used twice."""
    return f"d_{name.replace('-', '_')[:20]}_{chance[:6]}"


def given_grants(wanted: Sequence[Grant], chosen: Sequence[Grant] | None) -> list[Grant]:
    """Return the grants: all that the layer asks for, or the owner's choice of them; one beyond has no use and is refused."""
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
    """Return the data source of each name: the owner's choice, else what was bound before, else a new one.

    The id of a new one holds six digits of *chance*: a deployment gets old data only if its owner says so, never
    because it has the name of a removed one.
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
    """Return *base* with this as deployment *name*: a new one with a new id, or the next generation of the old one."""
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
    return replace(base, deployments=[*_others(base, name), after])


def remove(base: Desired, name: DeploymentName) -> Desired:
    """Return *base* without deployment *name*. Its data stays on the machine."""
    if find(base, name) is None:
        raise ChangeRefusedError(f"cannot remove {name}: there is no such deployment")
    return replace(base, deployments=_others(base, name))


def find(desired: Desired, name: DeploymentName) -> Deployment | None:
    """Return the deployment *name*, or None."""
    return next((deployment for deployment in desired.deployments if deployment.name == name), None)


def _others(desired: Desired, name: DeploymentName) -> list[Deployment]:
    return [deployment for deployment in desired.deployments if deployment.name != name]


def empty(fleet: FleetId, machine: MachineId) -> Desired:
    """Return the empty desired state, version 0, which a machine starts from and which is never sent."""
    return Desired(format="milkyway.desired/1", fleet=fleet, machine=machine, version=0, issued=0, not_before=0, expires=0)


def next_version(changed: Desired, base: Desired, highest: int, now: UnixSeconds) -> Desired:
    """Return *changed* as the version after both *base* and *highest*, the highest known, valid for a day from now."""
    issued = now - BACKDATED_S
    return replace(
        changed,
        version=max(base.version, highest) + 1,
        issued=issued,
        not_before=issued,
        expires=issued + LONGEST_LIFE_SECONDS["change"],
    )


def differences(before: Desired, after: Desired) -> list[str]:
    """Return the changes from *before* to *after*, a line each, for an operator to read before signing."""
    lines: list[str] = []
    old = {deployment.name: deployment for deployment in before.deployments}
    new = {deployment.name: deployment for deployment in after.deployments}
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
            "grant", [describe(grant) for grant in was.grants] if was else [], [describe(grant) for grant in becomes.grants]
        )
        lines += _changed("data", [*map(_binding, was.data)] if was else [], [*map(_binding, becomes.data)])
        lines += _changed("setting", _settings(was) if was else [], _settings(becomes))
    return lines


def _changed(what: str, before: list[str], after: list[str]) -> list[str]:
    return [
        *(f"    - {what} {text}" for text in before if text not in after),
        *(f"    {'  ' if text in before else '+ '}{what} {text}" for text in after),
    ]


def _pin(pin: LayerPin) -> str:
    return f"{pin.path} {pin.version}, root hash {pin.root_hash}, file {pin.sha256[:16]}… ({pin.size} bytes)"


def _binding(binding: DataBinding) -> str:
    return f"{binding.name} in {binding.source} ({binding.data_class})"


def _settings(deployment: Deployment) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(deployment.configuration.items())]
