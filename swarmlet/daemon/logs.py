"""The daemon's log: event names with fields, as text or JSON; where it goes and what never does.

To stderr, or to a file that is rotated. Where stderr is systemd's journal, a line carries no time
(the journal has its own) but its priority, as `<6>` (sd-daemon(3)). Join tokens, unlock keys,
private keys and passwords in addresses are taken out of every line, whoever logged them.
"""

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.redaction import redact_text
from swarmlet.core.service import JOURNAL_VARIABLE
from swarmlet.daemon.settings import Settings

LOG_FILE_SIZE_B: Final = 10 * 1024 * 1024  # then it is rotated
LOG_FILES_KEPT: Final = 3
LEVELS: Final = ("debug", "info", "warning", "error")
ROOMS: Final = ("agent", "api", "ca", "daemon", "manager", "raft", "runtime", "store", "wire")
_PRIORITIES: Final = (  # syslog's, from the gravest down
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY: Final = 7
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def levels_of(text: str) -> dict[str, str]:
    """`info,raft=debug` as {"": "info", "raft": "debug"}; info where no level is for all.

    Raises InvalidArgumentError.
    """
    found = {"": "info"}
    for part in text.split(","):
        room, equals, level = part.strip().rpartition("=")
        if level not in LEVELS or (equals and room not in ROOMS):
            raise InvalidArgumentError(
                f"{part.strip()!r} is no log level.",
                remedy=f"Levels are {', '.join(LEVELS)}; ROOM=LEVEL sets one of the rooms "
                f"{', '.join(ROOMS)} alone.",
            )
        found[room] = level
    return found


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields an event was logged with."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _stamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormat(logging.Formatter):
    """`time LEVEL event key=value ...`; without the time for the journal."""

    def __init__(self, *, has_time: bool = True) -> None:
        super().__init__()
        self._has_time = has_time

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_plain(value)}" for key, value in fields_of(record).items())
        time = f"{_stamp(record)} " if self._has_time else ""
        line = f"{time}{record.levelname:<7} {record.getMessage()}{pairs}"
        if record.exc_info:
            line += _indented(self.formatException(record.exc_info))
        return redact_text(line)


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
        return json.dumps({key: _redacted(value) for key, value in entry.items()})


class JournalFormat(logging.Formatter):
    """Another format's lines, each with its priority: the journal makes an entry of every line."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority_of(record.levelno)}>"
        return prefix + self._lines.format(record).replace("\n", f"\n{prefix}")


def priority_of(level: int) -> int:
    """Syslog's priority of a level of `logging`."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def _redacted(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case list() | tuple():
            return [_redacted(each) for each in value]
        case _:
            return redact_text(str(value))


def _plain(value: object) -> str:
    """As it is, or quoted where it could be taken for something else, by a terminal too."""
    text = str(value)
    is_plain = text.isprintable() and text and not any(c in text for c in ' "=')
    return text if is_plain else json.dumps(text)


def _indented(text: str) -> str:
    """Lines of which none looks like an event, without what a terminal would obey."""
    lines = (line.replace("\t", " ") for line in text.split("\n"))
    return "".join(
        f"\n  {line if line.isprintable() else json.dumps(line)[1:-1]}" for line in lines
    )


def is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether `descriptor` is the very stream that systemd tied to the journal."""
    named = environment.get(JOURNAL_VARIABLE, "")
    if not named:
        return False
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return False
    return named == f"{facts.st_dev}:{facts.st_ino}"


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotated file. Where stderr was that file too, as in the background, it moves along: what
    the interpreter itself says of a crash is in the youngest file."""

    def __init__(self, path: str) -> None:
        self._has_stderr = _is_same(path, sys.stderr.fileno())
        super().__init__(path, maxBytes=LOG_FILE_SIZE_B, backupCount=LOG_FILES_KEPT)

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        if self._has_stderr:
            os.dup2(stream.fileno(), sys.stderr.fileno())
        return stream


def _is_same(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def start_logging(settings: Settings) -> None:
    """Send all events of this process where the settings say. Raises OSError for the file."""
    to_journal = not settings.log_file and is_journal(os.environ, sys.stderr.fileno())
    handler: logging.Handler = (
        LogFile(settings.log_file) if settings.log_file else logging.StreamHandler(sys.stderr)
    )
    is_json = settings.log_format == "json"
    lines = JsonFormat() if is_json else TextFormat(has_time=not to_journal)
    handler.setFormatter(JournalFormat(lines) if to_journal else lines)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for room, level in levels_of(settings.log_level).items():
        logging.getLogger(f"swarmlet.{room}" if room else "").setLevel(level.upper())
    logging.raiseExceptions = False  # a full disk under the log file must not stop the daemon
