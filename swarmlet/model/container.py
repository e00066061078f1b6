"""ContainerSpec and all below it: what one container (or process) of a task is (API:
TaskSpec.ContainerSpec)."""

from swarmlet.model.base import ApiStruct, Driver, Empty, always


class CredentialSpec(ApiStruct, frozen=True, kw_only=True):
    config: str = ""
    file: str = ""
    registry: str = ""


class SELinuxContext(ApiStruct, frozen=True, kw_only=True):
    disable: bool = always(False)
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SeccompOpts(ApiStruct, frozen=True, kw_only=True):
    mode: str = ""
    profile: bytes = b""


class AppArmorOpts(ApiStruct, frozen=True, kw_only=True):
    mode: str = ""


class Privileges(ApiStruct, frozen=True, kw_only=True):
    credential_spec: CredentialSpec | None = always(None)
    selinux_context: SELinuxContext | None = always(None)
    seccomp: SeccompOpts | None = None
    app_armor: AppArmorOpts | None = None
    no_new_privileges: bool = always(False)


class BindOptions(ApiStruct, frozen=True, kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeOptions(ApiStruct, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: Driver | None = None
    subpath: str = ""


class ImageOptions(ApiStruct, frozen=True, kw_only=True):
    subpath: str = ""


class TmpfsOptions(ApiStruct, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] = []


class Mount(ApiStruct, frozen=True, kw_only=True):
    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: Empty | None = None


class HealthConfig(ApiStruct, frozen=True, kw_only=True):
    """Durations are nanoseconds; 0 inherits from the image."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class DNSConfig(ApiStruct, frozen=True, kw_only=True):
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []


class FileTarget(ApiStruct, frozen=True, kw_only=True):
    """Where a secret or config appears inside the task."""

    name: str = always("")
    uid: str = always("")
    gid: str = always("")
    mode: int = always(0)


class SecretReference(ApiStruct, frozen=True, kw_only=True):
    file: FileTarget | None = None
    secret_id: str = always("")
    secret_name: str = always("")


class ConfigReference(ApiStruct, frozen=True, kw_only=True):
    file: FileTarget | None = None
    runtime: Empty | None = None
    config_id: str = always("")
    config_name: str = always("")


class Ulimit(ApiStruct, frozen=True, kw_only=True):
    name: str = always("")
    hard: int = always(0)
    soft: int = always(0)


class ContainerSpec(ApiStruct, frozen=True, kw_only=True):
    """`command` replaces the entrypoint, `args` are its arguments; `stop_grace_period` is
    nanoseconds."""

    image: str = ""
    labels: dict[str, str] = {}
    command: list[str] = []
    args: list[str] = []
    hostname: str = ""
    env: list[str] = []
    dir: str = ""
    user: str = ""
    groups: list[str] = []
    privileges: Privileges | None = None
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    mounts: list[Mount] = []
    stop_grace_period: int | None = None
    healthcheck: HealthConfig | None = None
    hosts: list[str] = []
    dns_config: DNSConfig | None = None
    secrets: list[SecretReference] = []
    configs: list[ConfigReference] = []
    isolation: str = ""
    sysctls: dict[str, str] = {}
    capability_add: list[str] = []
    capability_drop: list[str] = []
    ulimits: list[Ulimit] = []
    oom_score_adj: int = 0
