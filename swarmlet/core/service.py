"""What the daemon and the unit that starts it agree on."""

from typing import Final

SERVICE: Final = "swarmlet"
"""Name of the unit, without `.service`."""

EXIT_USAGE: Final = 2  # click's: an option nobody knows does not heal by itself
EXIT_STOPPED: Final = 100
"""Exit code of a daemon that runs as a service and was told to stop through its API.

A service manager with Restart=always must leave it stopped, but restart it after a SIGTERM from
anybody else, which ends it with 0. Below 200, where systemd's own codes begin (systemd.exec(5)).
"""

NOTIFY_VARIABLE: Final = "NOTIFY_SOCKET"  # sd_notify(3)
JOURNAL_VARIABLE: Final = "JOURNAL_STREAM"  # systemd.exec(5): device:inode of the journal's stream
