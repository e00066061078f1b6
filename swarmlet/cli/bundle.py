"""What a debug bundle holds, and how it is written: one part a file, each without secrets.

The API's objects come first: what is taken out of them is then taken out of every text. A part that
cannot be had is a problem named in the bundle, and no reason not to write the others.
"""

import gzip
import io
import json
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from swarmlet.cli.client import Client, Json
from swarmlet.cli.errors import ApiError
from swarmlet.cli.install import unit_path
from swarmlet.cli.programs import CODE_NOT_RUN, run_program
from swarmlet.core.errors import SwarmError
from swarmlet.core.redaction import REDACTED, Redactor
from swarmlet.core.service import SERVICE
from swarmlet.core.version import VERSION

LOG_TAIL_B: Final = 1_048_576
JOURNAL_LINES: Final = 5_000
LISTED_FILES_MAX: Final = 20_000
PROGRAM_TIMEOUT_S: Final = 20.0
DOCTOR_TIMEOUT_S: Final = 60.0
FILE_SIZE_MAX_B: Final = 65_536  # of a small file of the system
_VOLUME_CONTENT: Final = "_data"  # the folder that tasks see of a volume
_OBJECTS: Final = (
    ("version.json", "/version", "the daemon's version"),
    ("info.json", "/info", "what `swarmlet info` knows"),
    ("swarm.json", "/swarm", "the swarm's settings, without tokens"),
    ("nodes.json", "/nodes", "the nodes"),
    ("services.json", "/services", "the services, without values and arguments"),
    ("tasks.json", "/tasks", "their tasks"),
    ("networks.json", "/networks", "the networks"),
    ("secrets.json", "/secrets", "names of secrets; their bytes never leave the swarm"),
    ("configs.json", "/configs", "names of configs"),
)
_SYSTEM_FILES: Final = (
    "/etc/os-release",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/self/cgroup",
    "/proc/self/limits",
    "/proc/sys/fs/file-nr",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/user/max_user_namespaces",
    "/sys/fs/cgroup/cgroup.controllers",
)
_PACKAGES: Final = ("aiohttp", "click", "cryptography", "msgspec", "pysyncobj", "pyyaml", "uvloop")
_PROGRAMS: Final = ("docker", "dockerd", "runc", "crun", "conmon", "nft", "ip", "systemctl")


class Part(NamedTuple):
    """One file of the bundle."""

    name: str
    text: str
    what: str  # for the list of contents


def stamp_of(wall_s: float) -> str:
    """A moment as part of a file's name, UTC."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y%m%dT%H%M%SZ")


class Collector:
    """Fills `parts` and `problems`."""

    def __init__(self, client: Client, data_dir: str) -> None:
        self._client, self._redactor = client, Redactor()
        self._data_dir = os.path.abspath(data_dir)
        self.parts: list[Part] = []
        self.problems: list[str] = []

    def collect(self, wall_s: float) -> None:
        """Everything there is, the list of contents first."""
        self._ask_daemon()
        self._add("doctor.json", self._doctor(), "what this machine can do")
        self._logs()
        self._add("unit.txt", self._unit(), "the service's unit and state")
        self._add("host.txt", "\n".join(_host_facts(self._data_dir)), "system and kernel")
        self._add("files.txt", "\n".join(_files(self._data_dir)), "names and sizes of the data")
        self.parts.insert(0, Part("README.txt", self._contents(wall_s), "what is in it"))

    def _add(self, name: str, text: str, what: str) -> None:
        if text:
            self.parts.append(Part(name, self._redactor.text(text).rstrip("\n") + "\n", what))

    def _ask_daemon(self) -> None:
        """Its objects, until it does not answer: a refusal is one part missing, no more."""
        clean: list[tuple[str, Json, str]] = []
        metrics = ""
        try:
            for name, path, what in _OBJECTS:
                try:
                    found = self._client.get(path)
                except ApiError as refusal:
                    self.problems.append(f"{name}: {refusal.message}")
                    continue
                self._note_place(found)
                keeps_labels = path in ("/nodes", "/info")
                clean.append((name, self._redactor.object(found, keeps_labels=keeps_labels), what))
            metrics = self._client.raw_get("/metrics").decode("utf-8", "replace")
        except SwarmError as error:
            self.problems.append(f"what the daemon knows: {error.message}")
        for name, found, what in clean:
            text = json.dumps(self._redactor.known(found), indent=1)
            self.parts.append(Part(name, f"{text}\n", what))
        self._add("metrics.txt", metrics, "the daemon's numbers")

    def _note_place(self, found: Json) -> None:
        """A daemon that answers knows best where its data are."""
        if isinstance(found, dict) and found.get("DockerRootDir"):
            self._data_dir = str(found["DockerRootDir"])

    def _doctor(self) -> str:
        host = ["--host", self._client.named] if self._client.named else []
        place = ["--data-dir", self._data_dir]
        command = [sys.executable, "-m", "swarmlet", *host, "doctor", "--json", *place]
        ran = run_program(command, timeout_s=DOCTOR_TIMEOUT_S)
        if not ran.out.strip():
            said = ran.err.strip().partition("\n")[0] or f"it ended with code {ran.code}"
            self.problems.append(f"doctor.json: {said.removeprefix('Error: ')}")
        return ran.out

    def _logs(self) -> None:
        """Of the file and of the journal; a problem where there is neither."""
        self._add("daemon.log", self._log_file(), "the end of the daemon's log file")
        scope = ["--user"] if os.getuid() else []
        lines = ["-n", str(JOURNAL_LINES), "-o", "short-iso", "--no-pager"]
        command = ["journalctl", *scope, "-q", "-u", SERVICE, *lines]
        journal = run_program(command, timeout_s=PROGRAM_TIMEOUT_S)
        self._add("journal.log", journal.out[-LOG_TAIL_B:], "the end of the service's journal")
        if not any(part.name.endswith(".log") for part in self.parts):
            said = journal.err.strip() or f"journalctl ended with code {journal.code}, and no line"
            self.problems.append(
                f"a log: {self._data_dir} has none, nor the journal ({said}); "
                "with --log-file it is where that says"
            )

    def _log_file(self) -> str:
        raw = b""
        for name in ("daemon.log.1", "daemon.log"):
            try:
                raw += _tail(f"{self._data_dir}/{name}")
            except FileNotFoundError:
                continue
            except OSError as error:
                self.problems.append(f"daemon.log: {error.filename}: {error.strerror}")
        return raw[-LOG_TAIL_B:].decode("utf-8", "replace")

    def _unit(self) -> str:
        scope = ["--user"] if os.getuid() else []
        texts: list[str] = []
        with suppress(OSError):
            texts.append(f"# {unit_path()}\n{_small_file(unit_path())}")
        for words in (["cat"], ["status", "--no-pager", "--lines=0"]):
            ran = run_program(["systemctl", *scope, *words, SERVICE], timeout_s=PROGRAM_TIMEOUT_S)
            said = ran.out.strip() or ran.err.strip()
            if ran.code != CODE_NOT_RUN:
                texts.append(f"$ systemctl {' '.join(words)} {SERVICE}: {ran.code}\n{said}")
        return "\n\n".join("\n".join(map(_unit_line, text.splitlines())) for text in texts)

    def _contents(self, wall_s: float) -> str:
        lines = [
            f"swarmlet {VERSION}, debug bundle of {os.uname().nodename}, {stamp_of(wall_s)} (UTC)",
            "",
            "Read it before you send it. Taken out, as " + REDACTED + ": values of environment",
            "variables, of labels but those of nodes, and of options; arguments of commands; bytes",
            "of configs and secrets; tokens, keys and passwords where they can be told. Names,",
            "addresses, paths, messages and the rest of the log are still there.",
            "",
            *[f"{part.name:<22} {part.what}" for part in self.parts],
        ]
        if self.problems:
            lines += ["", "Missing:", *[self._redactor.text(line) for line in self.problems]]
        return "\n".join(lines) + "\n"


def _unit_line(line: str) -> str:
    key, equals, _ = line.partition("=")
    is_environment = key.strip() in ("Environment", "SetCredential", "SetCredentialEncrypted")
    return f"{key}={REDACTED}" if equals and is_environment else line


def _tail(path: str) -> bytes:
    with open(path, "rb") as file:
        size_b = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_b - LOG_TAIL_B))
        return file.read(LOG_TAIL_B)


def _small_file(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(FILE_SIZE_MAX_B).decode("utf-8", "replace")


def _host_facts(data_dir: str) -> Iterator[str]:
    from importlib.metadata import PackageNotFoundError, version

    yield f"uname: {' '.join(os.uname())}"
    yield f"python: {sys.version} at {sys.executable}"
    yield f"user: {os.getuid()}, processors: {len(os.sched_getaffinity(0))}"
    for name in _PACKAGES:
        try:
            yield f"package {name}: {version(name)}"
        except PackageNotFoundError:
            yield f"package {name}: not there"
    for name in _PROGRAMS:
        yield f"program {name}: {shutil.which(name) or 'not there'}"
    try:
        room = os.statvfs(data_dir)
        free_b, total_b = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
        files = f"{room.f_favail} of {room.f_files} files"
        yield f"room in {data_dir}: {free_b} of {total_b} B, {files}"
    except OSError as error:
        yield f"room in {data_dir}: {error.strerror}"
    for path in _SYSTEM_FILES:
        try:
            yield f"\n== {path}\n{_small_file(path).rstrip()}"
        except OSError as error:
            yield f"\n== {path}: {error.strerror}"


def _files(data_dir: str) -> Iterator[str]:
    """Mode, owner, size, time and name of what lies below; never a byte of a content. What tasks
    have in volumes is theirs, its names too, and may be nested deeper than anybody can walk."""
    problems: list[str] = []
    listed = 0
    for folder, folders, names in os.walk(
        data_dir, onerror=lambda error: problems.append(f"{error.filename}: {error.strerror}")
    ):
        folders[:] = sorted(name for name in folders if not name.startswith(_VOLUME_CONTENT))
        listed += len(folders)
        for name in sorted(names):
            listed += 1
            if listed > LISTED_FILES_MAX:
                yield f"... and more than {LISTED_FILES_MAX} files are not listed"
                return
            with suppress(FileNotFoundError):  # gone meanwhile
                yield _file_line(f"{folder}/{name}")
    yield from problems


def _file_line(path: str) -> str:
    facts = os.lstat(path)
    owner, when = f"{facts.st_uid}:{facts.st_gid}", stamp_of(facts.st_mtime)
    shown = path if path.isprintable() else json.dumps(path)
    return f"{stat.filemode(facts.st_mode)} {owner:<11} {facts.st_size:>12} {when} {shown}"


def write_bundle(path: str, folder: str, parts: list[Part], wall_s: float) -> int:
    """Write the archive, readable by its owner alone; its size in bytes. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=wall_s) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for part in parts:
                raw = part.text.encode("utf-8", "replace")
                entry = tarfile.TarInfo(f"{folder}/{part.name}")
                entry.size, entry.mode, entry.mtime = len(raw), 0o600, int(wall_s)
                archive.addfile(entry, io.BytesIO(raw))
    except BaseException:
        os.unlink(path)
        raise
    return os.path.getsize(path)
