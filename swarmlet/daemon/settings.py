"""What the daemon was told on its command line."""

from typing import Final

import msgspec

from swarmlet.model.service import GenericResource

RUNTIMES: Final = ("auto", "process", "docker", "oci")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute. `socket_path` is where the API listens. `docker_host` is the option,
    `docker_host_variable` what the environment has (DOCKER_HOST); "" where there is none.
    `listen_addr` and `advertise_addr` are other ones of a node that is in a swarm already.
    `open_files` is the soft limit the daemon found, with which its tasks begin; 0: as it is now."""

    data_dir: str
    socket_path: str
    runtime: str = "auto"
    docker_host: str = ""
    docker_host_variable: str = ""
    log_level: str = "info"
    log_format: str = "text"
    log_file: str = ""
    allow_root_tasks: bool = False
    listen_addr: str = ""
    advertise_addr: str = ""
    open_files: int = 0
    generic_resources: tuple[GenericResource, ...] = ()  # what tasks can reserve of this node
