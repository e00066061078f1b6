"""The daemon's log: event names with fields, as text or JSON, to stderr or a rotated file."""

import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from typing import Final

from swarmlet.daemon.settings import Settings

LOG_FILE_SIZE_B: Final = 10 * 1024 * 1024  # then it is rotated
LOG_FILES_KEPT: Final = 3
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields an event was logged with."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _stamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormat(logging.Formatter):
    """`time LEVEL event key=value ...`"""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_plain(value)}" for key, value in fields_of(record).items())
        line = f"{_stamp(record)} {record.levelname:<7} {record.getMessage()}{pairs}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class JsonFormat(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text


def start_logging(settings: Settings) -> None:
    """Send all events of this process where the settings say."""
    handler: logging.Handler = (
        logging.handlers.RotatingFileHandler(
            settings.log_file, maxBytes=LOG_FILE_SIZE_B, backupCount=LOG_FILES_KEPT
        )
        if settings.log_file
        else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(JsonFormat() if settings.log_format == "json" else TextFormat())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.raiseExceptions = False  # a full disk under the log file must not stop the daemon
