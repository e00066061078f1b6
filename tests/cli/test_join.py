"""`join`, `join-token` and `node rm`: what is sent, and what is said."""

import copy
import os
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from swarmlet.cli.client import Client
from swarmlet.cli.format import expiry
from tests.cli import recorded
from tests.cli.recorded import TOKEN

ADDR = "10.0.0.1:2377"
JOIN_BODY = {
    "ListenAddr": "0.0.0.0:2377",
    "AdvertiseAddr": "",
    "DataPathAddr": "",
    "RemoteAddrs": [ADDR],
    "JoinToken": TOKEN,
    "Availability": "",
}
TOKENS = "/swarmlet/v1/join-tokens"
TOKEN_ID = "wfbl5gdxycn746374wyuymlep"


@pytest.fixture
def joining(swarm, monkeypatch):
    """A daemon that takes a join, as a worker."""
    monkeypatch.delenv("SWARMLET_MANAGERS", raising=False)
    info = copy.deepcopy(recorded.INFO)
    info["Swarm"]["ControlAvailable"] = False
    swarm.script |= {"POST /swarm/join": (200, None), "GET /info": (200, info)}
    return swarm


# join -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        ["join", "--token", TOKEN, ADDR],
        ["join", TOKEN, ADDR],
        ["join", ADDR, TOKEN],
        ["swarm", "join", ADDR, "--token", TOKEN],
    ],
)
def test_join_sends_dockers_body_and_says_the_role(words, swarmlet, joining):
    result = swarmlet(*words)
    assert (result.code, result.err) == (0, "")
    assert result.out == "This node joined a swarm as a worker.\n"
    assert joining.posted()[0].body == JOIN_BODY


def test_join_reads_the_token_from_a_file_that_no_process_list_shows(swarmlet, joining, tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert swarmlet("join", "--token-file", str(file), ADDR).code == 0
    assert joining.posted()[0].body == JOIN_BODY


def test_join_sends_nothing_for_a_file_without_a_token(swarmlet, joining, tmp_path):
    file = tmp_path / "token"
    file.write_text("hello\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for words in (
        ["--token-file", str(file)],
        ["--token-file", str(binary)],
        ["--token-file", str(file), "--token", TOKEN],
    ):
        result = swarmlet("join", *words, ADDR)
        assert result.code == 2
        assert "--token-file" in result.err
    assert joining.posted() == []


def test_join_as_a_manager_passes_the_daemons_warnings_on(swarmlet, joining):
    warning = "WARNING: Running Swarm in a 2-manager configuration."
    joining.script["GET /info"] = (200, {**recorded.INFO, "Warnings": [warning]})
    result = swarmlet("join", TOKEN, ADDR)
    assert result.out == "This node joined a swarm as a manager.\n"
    assert result.err == f"{warning}\n"


@pytest.mark.parametrize("value", ["10.0.0.1,m2:2378", " 10.0.0.1 m2:2378\n", "10.0.0.1, m2:2378,"])
def test_join_without_an_address_takes_those_of_the_environment(
    value, swarmlet, joining, monkeypatch
):
    monkeypatch.setenv("SWARMLET_MANAGERS", value)
    assert swarmlet("join", TOKEN).code == 0
    body = joining.posted()[0].body
    assert (body["RemoteAddrs"], "Discover" in body) == (["10.0.0.1", "m2:2378"], False)
    swarmlet("join", TOKEN, ADDR)
    assert joining.posted()[1].body["RemoteAddrs"] == [ADDR]


def test_join_without_any_address_looks_on_the_local_network(swarmlet, joining):
    assert swarmlet("join", "--token", TOKEN).code == 0
    assert joining.posted()[0].body == {**JOIN_BODY, "RemoteAddrs": [], "Discover": True}


def test_join_sends_the_options_that_were_given(swarmlet, joining):
    given = ["--availability", "drain", "--advertise-addr", "10.0.0.2", "--announce"]
    swarmlet("join", TOKEN, ADDR, "--listen-addr", "10.0.0.2:2378", *given)
    assert joining.posted()[0].body == {
        **JOIN_BODY,
        "ListenAddr": "10.0.0.2:2378",
        "AdvertiseAddr": "10.0.0.2",
        "Availability": "drain",
        "Announce": True,
    }


def test_join_without_a_token_is_wrong_usage(swarmlet, joining):
    result = swarmlet("join")
    assert (result.code, joining.requests) == (2, [])
    assert "needs a token" in result.err


@pytest.mark.parametrize("words", [["--token", TOKEN, TOKEN, ADDR], [TOKEN, f"{TOKEN}m", ADDR]])
def test_token_among_the_addresses_is_wrong_usage_and_goes_nowhere(words, swarmlet, joining):
    result = swarmlet("join", *words)
    assert (result.code, joining.requests) == (2, [])
    assert "stands where an address" in result.err
    assert TOKEN not in result.err


def test_interrupted_join_says_that_it_goes_on_and_how_to_give_it_up(
    swarmlet, joining, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "post", interrupted)
    result = swarmlet("join", TOKEN, ADDR)
    assert (result.code, result.out) == (130, "")
    assert "goes on in the background" in result.err
    assert "`swarmlet leave` gives it up" in result.err


def test_join_says_the_daemons_refusal_with_what_to_try(swarmlet, joining):
    text = (
        'Timeout was reached before node joined. Use the "docker info" command to see the status.'
    )
    joining.script["POST /swarm/join"] = (503, {"message": text, "remedy": "`swarmlet leave`."})
    result = swarmlet("join", TOKEN, ADDR)
    assert (result.code, result.out) == (1, "")
    said = text.replace("docker info", "swarmlet info")
    assert result.err == f"Error: {said}\n  Try: `swarmlet leave`.\n"


def test_join_notes_that_a_running_daemon_keeps_its_own_options(swarmlet, joining, tmp_path):
    result = swarmlet("join", TOKEN, ADDR, "--data-dir", str(tmp_path))
    assert result.code == 0
    assert "--data-dir, --runtime and --docker-host are its own" in result.err


def test_join_shows_on_a_terminal_what_it_waits_for(swarmlet, joining, monkeypatch):
    monkeypatch.setattr("swarmlet.cli.client.WAIT_PERIOD_S", 0.05)
    monkeypatch.setattr("os.get_terminal_size", lambda _fileno: os.terminal_size((80, 24)))
    swarm = {"LocalNodeState": "pending", "Error": "10.0.0.1:2377 does not answer."}
    waited = iter([(200, {"Swarm": swarm})])
    answers = joining.script["GET /info"]
    joining.script["GET /info"] = lambda _request: next(waited, answers)

    def slow(_request):
        time.sleep(0.2)
        return 200, None

    joining.script["POST /swarm/join"] = slow
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    result = swarmlet("join", TOKEN, ADDR)
    assert result.code == 0
    assert "\r\x1b[2KJoining, 0 s: 10.0.0.1:2377 does not answer." in result.err
    assert result.err.endswith("\r\x1b[2K")


def test_answer_that_does_not_come_in_time_is_a_timeout_while_somebody_watches(daemon, monkeypatch):
    monkeypatch.setattr("swarmlet.cli.client.WAIT_PERIOD_S", 0.02)
    monkeypatch.setattr("swarmlet.cli.client.REPLY_TIMEOUT_S", 0.1)
    daemon.script = {"POST /swarm/join": lambda _request: time.sleep(0.5) or (200, None)}
    client, waits = Client(daemon.socket_path), []
    client.on_wait = lambda: waits.append(1)
    with pytest.raises(Exception, match="did not answer"):
        client.post("/swarm/join", {})
    assert len(waits) == 5


# join-token -------------------------------------------------------------------------------------
def test_join_token_prints_the_line_or_the_token(swarmlet, swarm):
    for command in (["-q", "manager"], ["manager", "--quiet"]):
        assert swarmlet("join-token", *command).out == f"{TOKEN}m\n"
    assert swarmlet("swarm", "join-token", "worker").out == (
        "To add a worker to this swarm, run the following command:\n\n"
        f"    swarmlet join --token {TOKEN} 127.0.0.1:2377\n\n"
    )


@pytest.mark.parametrize("words", [["--rotate", "worker"], ["worker", "--rotate"]])
def test_join_token_rotates_the_one_that_is_named(words, swarmlet, swarm):
    result = swarmlet("join-token", *words)
    assert result.out.startswith("Successfully rotated worker join token.\n\nTo add a worker")
    query = swarm.posted()[0].query
    assert (query["rotateWorkerToken"], query["rotateManagerToken"]) == ("true", "false")


def test_join_token_names_a_manager_that_others_ask_where_this_one_is_none(swarmlet, swarm):
    node = copy.deepcopy(recorded.NODE)
    node["ManagerStatus"] = {"Reachability": "unknown", "Addr": ""}
    swarm.script[f"GET /nodes/{recorded.NODE_ID}"] = (200, node)
    info = copy.deepcopy(recorded.INFO)
    info["Swarm"]["RemoteManagers"] = [{"NodeID": "x", "Addr": ADDR}]
    swarm.script["GET /info"] = (200, info)
    assert f"--token {TOKEN} {ADDR}\n" in swarmlet("join-token", "worker").out
    info["Swarm"]["RemoteManagers"] = [{"NodeID": "x", "Addr": "[fd97::1]:2377"}]
    assert f"--token {TOKEN} '[fd97::1]:2377'\n" in swarmlet("join-token", "worker").out


def test_extra_token_is_made_with_its_bounds_and_shown_once(swarmlet, swarm):
    swarm.script[f"POST {TOKENS}"] = (201, {"ID": TOKEN_ID, "Token": f"{TOKEN}x"})
    words = ["--role", "worker", "--label", "zone=a", "--expires", "24h", "--uses", "3"]
    result = swarmlet("join-token", "create", *words)
    assert result.out == (
        f"Join token {TOKEN_ID} is made; it is shown this once.\n\n"
        "To add a worker to this swarm, run the following command:\n\n"
        f"    swarmlet join --token {TOKEN}x 127.0.0.1:2377\n\n"
    )
    assert swarm.posted()[0].body == {
        "Role": "worker",
        "Labels": {"zone": "a"},
        "ExpiresIn": 24 * 3600 * 10**9,
        "Uses": 3,
    }
    assert swarmlet("join-token", "-q", "create", "--role", "manager").out == f"{TOKEN}x\n"
    unbounded = {"Role": "manager", "Labels": {}, "ExpiresIn": 0, "Uses": 0}
    assert swarm.posted()[1].body == unbounded


@pytest.mark.parametrize("expires", ["0", "0s"])
def test_extra_token_that_ends_at_once_is_not_made_one_that_lasts(expires, swarmlet, swarm):
    result = swarmlet("join-token", "create", "--expires", expires)
    assert (result.code, swarm.posted()) == (2, [])
    assert "--expires 0" in result.err


def test_extra_tokens_are_listed_without_what_they_say(swarmlet, swarm):
    ends = (datetime.now(UTC) + timedelta(hours=23.5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    row = {"ID": TOKEN_ID, "Role": "worker", "Labels": {"zone": "a", "disk": "ssd"}, "Uses": 1}
    bounded = {**row, "ExpiresAt": ends, "UsesMax": 3, "State": "valid"}
    free = {
        **row,
        "ID": "b" * 25,
        "Labels": None,
        "ExpiresAt": None,
        "UsesMax": 0,
        "State": "valid",
    }
    swarm.script[f"GET {TOKENS}"] = (200, [bounded, free])
    assert swarmlet("join-token", "ls").out == (
        "ID                          ROLE      LABELS            EXPIRES       USES      STATE\n"
        f"{TOKEN_ID}   worker    disk=ssd,zone=a   in 23 hours   1/3       valid\n"
        f"{'b' * 25}   worker                      never         1         valid\n"
    )
    assert swarmlet("join-token", "ls", "-q").out == f"{TOKEN_ID}\n{'b' * 25}\n"
    assert swarmlet("join-token", "ls", "--format", "{{.Uses}}").out == "1/3\n1\n"


def test_extra_tokens_are_removed_one_by_one(swarmlet, swarm):
    swarm.script[f"DELETE {TOKENS}/a"] = (204, None)
    result = swarmlet("join-token", "rm", "a", "b")
    assert (result.code, result.out) == (1, "a\n")
    assert "page not found" in result.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["create", "--uses", "0"], "--uses"),
        (["create", "--expires", "soon"], "--expires"),
        (["create", "--role", "boss"], "'boss' is not one of"),
        (["create", "--label", "=x"], "the key is missing"),
        (["boss"], "There is no command 'boss'"),
        (["workr"], "Did you mean 'worker'"),
        (["ls", "--rotate"], "--rotate"),
        (["rm"], "Missing argument 'ID...'"),
    ],
)
def test_join_token_says_what_is_wrong_and_sends_nothing(words, sentence, swarmlet, swarm):
    result = swarmlet("join-token", *words)
    assert (result.code, swarm.requests) == (2, [])
    assert sentence in result.err


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (90 * 86_400 - 5, "in 89 days"),
        (47.5 * 3600, "in 47 hours"),
        (90 * 60, "in 90 minutes"),
        (30, "within 2 minutes"),
        (-30, "just now"),
        (-3 * 86_400 - 5, "3 days ago"),
    ],
)
def test_expiry_is_said_in_days_while_there_are_some(left_s, text):
    assert expiry("2026-11-22T18:00:00Z", 1_795_370_400 - left_s) == text


# node rm ----------------------------------------------------------------------------------------
def test_node_rm_removes_each_and_passes_force_on(swarmlet, swarm):
    swarm.script["DELETE /nodes/w1"] = (200, None)
    swarm.script["DELETE /nodes/w2"] = (400, {"message": "node w2 is not down"})
    result = swarmlet("node", "rm", "--force", "w1", "w2")
    assert (result.code, result.out, result.err) == (1, "w1\n", "Error: node w2 is not down\n")
    assert [request.query for request in swarm.requests] == [{"force": "1"}] * 2
    swarmlet("node", "remove", "w1")
    assert swarm.requests[-1].query == {}
