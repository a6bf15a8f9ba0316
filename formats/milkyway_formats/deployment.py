"""A deployment: one named instance of an app layer on one machine, and the descriptor that its owner writes."""

from typing import Annotated

from msgspec import Meta, field

from milkyway_formats.codec import Document
from milkyway_formats.grants import Grant
from milkyway_formats.manifest import DataClass
from milkyway_formats.names import (
    Bytes,
    DataName,
    DeploymentName,
    Identifier,
    LayerPath,
    LayerVersion,
    RootHash,
    Sha256,
    ShortText,
    Text,
)


class LayerPin(Document, frozen=True):
    """A layer by everything that fixes its bytes: ``sha256`` and ``size`` of the whole layer file, root hash of its image."""

    path: LayerPath
    version: LayerVersion
    sha256: Sha256
    size: Bytes
    root_hash: RootHash


class DataBinding(Document, frozen=True):
    """Which data source stands behind a name that the layer uses. ``source`` outlives the deployment."""

    name: DataName
    source: Identifier
    data_class: DataClass = "secure"


class Deployment(Document, frozen=True):
    """Exactly what runs. ``stack`` is topmost first and holds every layer but CoreOS: app, libraries, OS base.

    ``id`` is made once by the operator's tool and never used again; ``generation`` counts the deployment's
    versions, so that two of them can overlap in an upgrade.
    """

    id: Identifier
    name: DeploymentName
    generation: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    stack: Annotated[list[LayerPin], Meta(min_length=1, max_length=17)]
    grants: Annotated[list[Grant], Meta(max_length=64)] = field(default_factory=list)
    data: Annotated[list[DataBinding], Meta(max_length=32)] = field(default_factory=list)
    configuration: dict[ShortText, Text] = field(default_factory=dict)


class DeploymentDescriptor(Document, frozen=True):
    """What the owner writes in YAML: a layer, by path or file, what this instance of it may do, and the data it uses.

    Without ``grants`` it gets exactly those that the layer asks for; they are shown before signing.
    """

    name: DeploymentName
    layer: ShortText
    grants: Annotated[list[Grant], Meta(max_length=64)] | None = None
    data: Annotated[list[DataBinding], Meta(max_length=32)] = field(default_factory=list)
    configuration: dict[ShortText, Text] = field(default_factory=dict)
