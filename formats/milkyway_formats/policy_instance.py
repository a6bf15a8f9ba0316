"""From a checked overlay to the CIL of one version of one deployment.

Pure rendering of values; ``overlay`` has checked what a layer wrote, ``secilc`` will check the result. An instance
also states, as neverallow rules over all types but a named few, what it and everything else may not do: so a fault
here or in the checker gives a policy that doesn't compile, not one that is too wide.

``policy_shared.shared`` must be compiled with instances: it declares the blocks that they fill and the types of data.
"""

from collections.abc import Collection, Mapping, Sequence

from milkyway_formats.grants import Grant, UseData
from milkyway_formats.overlay import Call, Overlay
from milkyway_formats.policy_interface import TEMPLATE_TYPES, Kind, macro_of
from milkyway_formats.policy_shared import data_type

# What a domain of any deployment can act on besides its own types and its data. rules.cil, template.cil and
# interface.cil say what it may do there; anything else is out of reach whatever any rule says.
REACHABLE = (
    "agent_t", "launch_t", "launcher_t", "proc_t", "sysctl_t", "sysfs_t", "cgroup_t", "tmpfs_t", "device_t",
    "null_device_t", "run_t", "notify_sock_t", "net_run_t", "port_t", "node_t", "netif_t", "netmsg_t",
)  # fmt: skip
# Who may act on a deployment's types besides its own domains.
ATTENDANTS = ("kernel_t", "agent_t", "launcher_t", "console_t")
# What the capability macros give, where it is more than the capability that they are named after.
_BESIDES = {"dac_override": ("dac_read_search",), "fowner": ("fsetid",)}
_CAPABILITY_CLASSES = ("capability", "cap_userns")


def domain_types(overlay: Overlay, identifier: str, generation: int) -> dict[str, str]:
    """Return the full type names of the instance's domains by the overlay's own names."""
    return {name: f"{identifier}.v{generation}.{name}" for name in overlay.domains}


def instance(
    overlay: Overlay, identifier: str, generation: int, grants: Collection[Grant], data: Mapping[str, str] | None = None
) -> bytes:
    """Return the CIL of *overlay* as generation *generation* of deployment *identifier*.

    *grants* are those that the overlay was checked for; a grant that the overlay does not use goes to ``process``.
    *data* maps each name of data in the grants to the id of its data source.
    """
    sources = dict(data or {})
    calls = _placed_calls(overlay, grants)
    own = {**TEMPLATE_TYPES, **overlay.types}
    lines = [
        "(blockinherit .Layer)",
        *(line for name, kind in overlay.types.items() for line in _declaration(name, kind)),
        *(
            f"(typetransition {transition.source} {transition.target} {transition.object_class} "
            + (f'"{transition.name}" ' if transition.name else "")
            + f"{transition.result})"
            for transition in overlay.transitions
        ),
        *(
            f"(allow {allow.source} {allow.target} ({allow.object_class} ({' '.join(allow.permissions)})))"
            for allow in overlay.allows
        ),
        *(_call(call, sources) for call in calls),
        *_invariants(overlay.domains, tuple(own), calls, sources),
    ]
    body = "\n".join(f"    {line}" for line in lines)
    return f"(in {identifier}\n  (block v{generation}\n{body}))\n".encode()


def _placed_calls(overlay: Overlay, grants: Collection[Grant]) -> list[Call]:
    """Return the overlay's calls, and one for ``process`` for each grant that none of them uses."""
    calls = list(overlay.calls)
    for grant in grants:
        data = grant.name if isinstance(grant, UseData) else ""
        used = {(call.macro, call.data) for call in overlay.calls}
        # Reading also uses a grant to write.
        if (macro_of(grant), data) not in used and ("data_read", data) not in used:
            calls.append(Call(macro_of(grant), "process", data))
    return list(dict.fromkeys(calls))


def _declaration(name: str, kind: Kind) -> list[str]:
    declared = f"(type {name})"
    if kind == "domain":
        return [declared, f"(call .base_layer_domain ({name} stack))"]
    return [declared, f"(call .{kind} ({name}))"]


def _call(call: Call, sources: Mapping[str, str]) -> str:
    if call.data:
        return f"(call .{call.macro} ({call.domain} .{data_type(sources[call.data])}))"
    return f"(call .{call.macro} ({call.domain}))"


def _invariants(domains: Sequence[str], own: Sequence[str], calls: Sequence[Call], sources: Mapping[str, str]) -> list[str]:
    """Return what must not hold for this instance, over all types but those named here.

    Few rules over many types: secilc compares each neverallow rule with every allow rule there is.
    """
    data = sorted({f".{data_type(sources[call.data])}" for call in calls if call.data})
    # Only types stand behind a "not": an attribute there could be added to.
    attending = " ".join([*own, *(f".{name}" for name in ATTENDANTS)])
    reachable = " ".join([*own, *(f".{name}" for name in REACHABLE), *data])
    lines = [
        "(typeattribute own_a)",
        f"(typeattributeset own_a ({' '.join(own)}))",
        "(typeattribute domains_a)",
        f"(typeattributeset domains_a ({' '.join(domains)}))",
        "(typeattribute others_a)",
        f"(typeattributeset others_a (not ({attending})))",
        "(typeattribute beyond_a)",
        f"(typeattributeset beyond_a (not ({reachable})))",
        "(neverallow others_a own_a .anything)",
        "(neverallow domains_a beyond_a .any_use)",
    ]
    held: dict[str, list[str]] = {}
    for domain in domains:
        held.setdefault(_capabilities(domain, calls), []).append(domain)
    for number, (granted, holders) in enumerate(held.items()):
        lines += [
            f"(typeattribute holders{number}_a)",
            f"(typeattributeset holders{number}_a ({' '.join(holders)}))",
            *(
                f"(neverallow holders{number}_a self ({of} ({f'not ({granted})' if granted else 'all'})))"
                for of in _CAPABILITY_CLASSES
            ),
        ]
    return lines


def _capabilities(domain: str, calls: Sequence[Call]) -> str:
    """Return the names of the capabilities that *domain* is granted, separated by spaces."""
    granted = [
        call.macro.removeprefix("capability_")
        for call in calls
        if call.domain == domain and call.macro.startswith("capability_")
    ]
    return " ".join(sorted(name for capability in granted for name in (capability, *_BESIDES.get(capability, ()))))
