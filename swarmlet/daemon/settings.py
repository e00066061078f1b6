"""What the daemon was told on its command line."""

from typing import Final

import msgspec

RUNTIMES: Final = ("auto", "process", "docker", "oci")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Paths are absolute. `socket_path` is where the API listens."""

    data_dir: str
    socket_path: str
    runtime: str = "auto"
    log_level: str = "info"
    log_format: str = "text"
    log_file: str = ""
    allow_root_tasks: bool = False
