"""The log: levels, formats, the journal, rotation under load, a full disk, and no secret in it."""

import base64
import json
import logging
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.daemon.logs import (
    LOG_FILE_SIZE_B,
    LOG_FILES_KEPT,
    ROOMS,
    JournalFormat,
    JsonFormat,
    TextFormat,
    is_journal,
    levels_of,
)
from tests.daemon.harness import (
    ApiError,
    Client,
    UnixConnection,
    running_daemon,
    service,
    wait_running,
)

SOURCES = Path(__file__).parents[2] / "swarmlet"
SECRET = "SWMTKN-1-3ksdh2gfz0vy8fbcz3u6y5e2-8vxv8rssmk743ojnwacrr2e7c"


def run_program(text, *arguments, prefix=()):
    command = [*prefix, sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\u2028b", "a\x9b2Jb", "a\x7fb", "a\u202eb", ""]
)
def test_value_is_one_word_that_no_terminal_obeys(text):
    line = TextFormat().format(logging.makeLogRecord({"msg": "task.event", "field": text}))
    assert line.isprintable()
    assert json.loads(line.partition(" field=")[2]) == text


def test_exception_makes_no_line_that_looks_like_an_event():
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z ERROR fake.event\x1b[31m\ttab")
    except ValueError:
        record = logging.makeLogRecord({"msg": "task.event", "exc_info": sys.exc_info()})
    _, *lines = TextFormat().format(record).split("\n")
    assert any("fake.event" in line for line in lines)
    assert all(line.startswith("  ") and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("info", {"": "info"}),
        ("warning, raft=debug", {"": "warning", "raft": "debug"}),
        ("api=error", {"": "info", "api": "error"}),
    ],
)
def test_levels_of_reads_a_level_and_those_of_rooms(text, levels):
    assert levels_of(text) == levels


@pytest.mark.parametrize("text", ["", "loud", "rafft=debug", "raft=", "=info", "info,,", "INFO"])
def test_levels_of_says_what_there_is_where_it_knows_no_such_level(text):
    with pytest.raises(InvalidArgumentError) as refused:
        levels_of(text)
    assert "debug, info, warning, error" in refused.value.remedy


def test_rooms_are_those_that_log():
    texts = [path.read_text() for path in SOURCES.rglob("*.py")]
    named = {name for text in texts for name in re.findall(r'getLogger\("swarmlet\.(\w+)', text)}
    assert named == set(ROOMS)


def record(level=logging.INFO, error=None, **fields):
    made = logging.LogRecord("swarmlet.x", level, __file__, 1, "task.started", (), error)
    made.created = 1_700_000_000.25
    vars(made).update(fields)
    return made


def an_error():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        return sys.exc_info()


def test_text_is_time_level_event_and_fields():
    line = TextFormat().format(record(task_id="a", note="two words"))
    assert line == '2023-11-14T22:13:20.250Z INFO    task.started task_id=a note="two words"'


def test_json_is_one_line_whatever_is_in_it():
    text = JsonFormat().format(record(error=an_error(), slots=("a", 1), path=Path("/x")))
    assert "\n" not in text
    entry = json.loads(text)
    assert (entry["event"], entry["level"], entry["slots"]) == ("task.started", "info", ["a", 1])
    assert (entry["path"], entry["time"]) == ("/x", "2023-11-14T22:13:20.250Z")
    assert "ValueError: first" in entry["exception"]


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
def test_journal_gets_priorities_and_no_time(level, priority):
    lines = JournalFormat(TextFormat(has_time=False))
    name = logging.getLevelName(level)
    assert lines.format(record(level, a=1)) == f"<{priority}>{name:<7} task.started a=1"


def test_journal_gets_the_priority_on_every_line_of_an_exception():
    text = JournalFormat(TextFormat(has_time=False)).format(record(logging.ERROR, an_error()))
    lines = text.splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize("form", [TextFormat(), JsonFormat(), JournalFormat(JsonFormat())])
def test_no_format_writes_a_token_whoever_logs_it(form):
    try:
        raise ValueError(f"cannot use {SECRET}")
    except ValueError:
        text = form.format(record(logging.ERROR, sys.exc_info(), note=SECRET, all=[SECRET]))
    assert SECRET[9:] not in text
    assert text.count("SWMTKN-<redacted>") == 3


def test_is_journal_is_true_of_the_named_stream_alone(tmp_path):
    with open(tmp_path / "a", "w") as one, open(tmp_path / "b", "w") as other:
        facts = os.fstat(one.fileno())
        named = {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"}
        assert is_journal(named, one.fileno())
        assert not is_journal(named, other.fileno())
        assert not is_journal({}, one.fileno())
        closed = other.fileno()
    assert not is_journal(named, closed)


TO_STDERR = """
import logging, os
from swarmlet.daemon.logs import start_logging
from swarmlet.daemon.settings import Settings
facts = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{facts.st_dev}:{facts.st_ino}"
start_logging(Settings(data_dir="/", socket_path="/", log_level="warning,raft=debug"))
logging.getLogger("swarmlet.raft").debug("raft.started", extra={"term": 1})
logging.getLogger("swarmlet.api").info("api.listening")
logging.getLogger("swarmlet.api").warning("api.socket_not_removed")
"""


def test_stderr_that_is_the_journal_gets_priorities_and_rooms_their_levels():
    ran = run_program(TO_STDERR)
    assert ran.stderr == "<7>DEBUG   raft.started term=1\n<4>WARNING api.socket_not_removed\n"


UNDER_LOAD = """
import logging, sys, threading
from swarmlet.daemon.logs import start_logging
from swarmlet.daemon.settings import Settings
start_logging(Settings(data_dir="/", socket_path="/", log_file=sys.argv[1]))
log, filler = logging.getLogger("swarmlet.raft"), "x " * 4096
def write(writer):
    for turn in range(1500):
        log.info("load", extra={"writer": writer, "turn": turn, "filler": filler})
threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_rotation_under_load_keeps_its_bounds_and_tears_no_line(tmp_path):
    path = tmp_path / "daemon.log"
    run_program(UNDER_LOAD, path)
    files = [tmp_path / f"daemon.log.{n}" for n in range(LOG_FILES_KEPT, 0, -1)] + [path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= LOG_FILE_SIZE_B for file in files)
    turns = {writer: [] for writer in range(4)}
    for line in "".join(file.read_text() for file in files).splitlines():
        found = re.fullmatch(r'\S+ INFO    load writer=(\d) turn=(\d+) filler="(x ){4096}"', line)
        assert found, line[:80]
        turns[int(found[1])].append(int(found[2]))
    for written in turns.values():  # the oldest are gone; of the rest none is lost or out of order
        assert written == list(range(1500 - len(written), 1500))
        assert len(written) > 500


CRASH = """
import logging, os, sys
from swarmlet.daemon.logs import start_logging
from swarmlet.daemon.settings import Settings
stream = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.dup2(stream, 2)
start_logging(Settings(data_dir="/", socket_path="/", log_file=sys.argv[1]))
for turn in range(1400):
    logging.getLogger("swarmlet.raft").info("load", extra={"filler": "x " * 4096})
os.write(2, b"Fatal Python error\\n")
"""


def test_stderr_of_a_daemon_in_the_background_follows_the_rotation(tmp_path):
    path = tmp_path / "daemon.log"
    run_program(CRASH, path)
    assert (tmp_path / "daemon.log.1").exists()
    assert path.read_text().endswith("\nFatal Python error\n")


FULL = """
import logging, os, sys
from swarmlet.daemon.logs import start_logging
from swarmlet.daemon.settings import Settings
folder = sys.argv[1]
start_logging(Settings(data_dir="/", socket_path="/", log_file=folder + "/daemon.log"))
log = logging.getLogger("swarmlet.raft")
with open(folder + "/stone", "wb") as stone:
    stone.write(b"x" * 32768)
for turn in range(2000):
    log.info("much", extra={"turn": turn, "filler": "x" * 100})
assert os.statvfs(folder).f_bavail == 0
os.unlink(folder + "/stone")
for turn in range(100):
    log.info("again", extra={"turn": turn})
print(open(folder + "/daemon.log").read())
"""


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small disk")
def test_full_disk_loses_lines_but_stops_nobody_and_heals(tmp_path):
    small = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$0" "$@"'
    ran = run_program(FULL, tmp_path, prefix=("unshare", "-m", "sh", "-c", small))
    lines = ran.stdout.splitlines()
    assert ran.stderr == ""
    assert "again turn=99" in ran.stdout
    assert sum("much turn=" in line for line in lines) < 2000


def test_daemon_serves_where_no_line_of_its_log_can_be_written():
    with running_daemon("--log-file", "/dev/full") as daemon:
        client = daemon.init()
        client.post("/services/create", service("web"))
        wait_running(client, "web", 1)


def test_log_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "own.log"
    with running_daemon("--log-file", str(path)):
        assert "daemon.ready" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600


def test_daemon_that_cannot_open_its_log_says_so(tmp_path):
    command = [sys.executable, "-m", "swarmlet.daemon", "--data-dir", str(tmp_path / "d")]
    ran = subprocess.run(
        [*command, "--log-file", str(tmp_path / "no" / "x.log")],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert ran.returncode == 1
    assert "no/x.log: No such file or directory" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_secret_of_a_request_is_in_the_most_talkative_log():
    planted = "pl4nted-hunter22"
    encoded = base64.b64encode(planted.encode()).decode()
    auth = base64.b64encode(json.dumps({"password": planted}).encode()).decode()
    with running_daemon("--log-level", "debug", "--log-format", "json") as daemon:
        client = daemon.init()
        client.post("/secrets/create", {"Name": "key", "Data": encoded})
        client.post("/configs/create", {"Name": "conf", "Data": encoded})
        for name, command in (("web", "/bin/sleep"), ("broken", "/nowhere")):
            spec = service(name, command, "1000", Env=[f"PASSWORD={planted}"])
            post_with_auth(client, spec, auth)
        wait_running(client, "web", 1)
        tokens = client.get("/swarm")["JoinTokens"]
        for path in ("/swarm/join", "/swarm/unlock", "/auth"):
            with pytest.raises(ApiError):
                client.post(path, {"UnlockKey": planted, "JoinToken": planted, "password": planted})
        text = daemon.log()
    assert text.count("\n") > 10
    for secret in (planted, encoded, auth, *tokens.values()):
        assert secret not in text


def post_with_auth(client: Client, spec: dict, auth: str) -> None:
    headers = {"Content-Type": "application/json", "X-Registry-Auth": auth}
    with closing(UnixConnection(client.path, 20.0)) as connection:
        connection.request("POST", "/services/create", json.dumps(spec).encode(), headers)
        answer = connection.getresponse()
        assert answer.status in (200, 201), answer.read()
