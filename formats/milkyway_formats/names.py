"""Typed names and ids: what each may look like, defined once.

msgspec checks the constraints at decoding; code that takes a name from elsewhere
converts it to the same type.
"""

from typing import Annotated

from msgspec import Meta

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="SHA-256, 64 lower-case hexadecimal digits")]
RootHash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="root hash of a dm-verity tree (SHA-256), hexadecimal")]
Salt = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="salt of a dm-verity tree, 32 bytes, hexadecimal")]
KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="SHA-256 of a public hybrid key entry, hexadecimal")]
MachineId = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="key id of the machine's identity key")]
FleetId = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z", description="name of a fleet, fixed at `milkyway control init`")
]
PersonName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9._-]{0,30}\Z", description="a person; thresholds count persons, not keys")
]
LayerPath = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9.-]{0,62}(/[a-z0-9][a-z0-9.-]{0,62}){0,3}\Z",
        description="path of a layer, e.g. example/nginx",
    ),
]
LayerVersion = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}\Z", description="version of a layer, as its maker writes it")
]
Identifier = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]{0,31}\Z",
        description="one id for type, cgroup, uid range, quota and nft set; never used twice",
    ),
]
DeploymentName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z", description="a deployment's name, chosen by its owner")
]
ServiceName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z", description="a service's name within its layer or CoreOS")
]
DomainName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z", description="a domain that a layer's policy overlay declares")
]
DataName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z", description="a data source's name")]
AbsolutePath = Annotated[
    str,
    Meta(
        pattern=r"^(/[A-Za-z0-9_@%+=:,-][A-Za-z0-9._@%+=:,-]*)+\Z",
        max_length=255,
        description="absolute path, no '.' or '..' component",
    ),
]
UnixSeconds = Annotated[int, Meta(ge=0, le=253402300799, description="seconds since 1970-01-01 UTC")]
Bytes = Annotated[int, Meta(ge=0, le=1 << 50, description="bytes")]
Port = Annotated[int, Meta(ge=1, le=65535, description="TCP or UDP port")]
Text = Annotated[str, Meta(max_length=4096)]
ShortText = Annotated[str, Meta(max_length=256)]
