"""Cluster volumes: storage that follows a task between nodes."""

from swarmlet.core.ids import NodeID, VolumeID
from swarmlet.model.base import ApiStruct, Empty, Record, always


class Topology(ApiStruct, frozen=True, kw_only=True):
    segments: dict[str, str] = {}


class VolumeSecret(ApiStruct, frozen=True, kw_only=True):
    key: str = ""
    secret: str = ""


class TopologyRequirement(ApiStruct, frozen=True, kw_only=True):
    requisite: list[Topology] = []
    preferred: list[Topology] = []


class CapacityRange(ApiStruct, frozen=True, kw_only=True):
    """Bytes."""

    required_bytes: int = always(0)
    limit_bytes: int = always(0)


class VolumeAccessMode(ApiStruct, frozen=True, kw_only=True):
    scope: str = ""
    sharing: str = ""
    mount_volume: Empty | None = None
    block_volume: Empty | None = None


class ClusterVolumeSpec(ApiStruct, frozen=True, kw_only=True):
    group: str = ""
    access_mode: VolumeAccessMode | None = None
    accessibility_requirements: TopologyRequirement | None = None
    capacity_range: CapacityRange | None = None
    secrets: list[VolumeSecret] = []
    availability: str = ""


class VolumeSpec(ApiStruct, frozen=True, kw_only=True):
    """The body of `POST /volumes/create`."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    cluster_volume_spec: ClusterVolumeSpec | None = None


class VolumeInfo(Record, frozen=True, kw_only=True):
    volume_id: str = ""
    capacity_b: int = 0
    context: dict[str, str] = {}
    accessible: tuple[Topology, ...] = ()


class VolumePublishStatus(Record, frozen=True, kw_only=True):
    """`state`: pending-publish, published, pending-node-unpublish, pending-controller-unpublish."""

    node_id: NodeID
    state: str = ""
    context: dict[str, str] = {}


class Volume(Record, frozen=True, kw_only=True):
    id: VolumeID
    spec: VolumeSpec
    info: VolumeInfo | None = None
    publish_status: tuple[VolumePublishStatus, ...] = ()
    is_pending_delete: bool = False
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
