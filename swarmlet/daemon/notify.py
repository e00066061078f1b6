"""Telling the service manager how the daemon is: sd_notify(3), one datagram a message."""

import logging
import os
import socket
from collections.abc import Callable, MutableMapping

from swarmlet.core.service import NOTIFY_VARIABLE

log = logging.getLogger("swarmlet.daemon")

Tell = Callable[[str], None]
"""Takes lines such as `READY=1`."""


def notifier(environment: MutableMapping[str, str]) -> Tell | None:
    """What tells the service manager, or None where there is none.

    Takes the variable out of `environment`: what the daemon starts must not speak in its name.
    """
    address = environment.pop(NOTIFY_VARIABLE, "")
    return _Notifier(address) if address else None


class _Notifier:
    """A service manager that cannot be told is logged, and never stops the daemon."""

    def __init__(self, address: str) -> None:
        is_abstract = address.startswith("@")
        self._address = "\0" + address[1:] if is_abstract else address

    def __call__(self, message: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(os.fsencode(message), self._address)
        except OSError as error:
            log.warning("daemon.not_notified", extra={"problem": error.strerror or str(error)})
