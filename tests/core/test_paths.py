"""Where daemon and CLI look for each other."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.paths import (
    SOCKET_PATH_LENGTH_MAX_B,
    default_data_dir,
    default_host,
    socket_path,
)


def nowhere(_path: str) -> bool:
    return False


def everywhere(_path: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("env", "uid", "expected"),
    [
        ({"HOME": "/root"}, 0, "/var/lib/swarmlet"),
        ({"HOME": "/home/ada", "XDG_DATA_HOME": "/data/ada/"}, 1000, "/data/ada/swarmlet"),
        ({"HOME": "/home/ada"}, 1000, "/home/ada/.local/share/swarmlet"),
        ({"HOME": "/home/ada", "XDG_DATA_HOME": ""}, 1000, "/home/ada/.local/share/swarmlet"),
    ],
)
def test_data_dir_follows_the_user(env, uid, expected):
    assert default_data_dir(env, uid) == expected


def test_data_dir_is_asked_for_when_there_is_no_home():
    with pytest.raises(InvalidArgumentError) as caught:
        default_data_dir({}, 1000)
    assert "--data-dir" in caught.value.remedy


@pytest.mark.parametrize(
    ("env", "uid", "exists", "expected"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, everywhere, "/run/swarmlet/swarmlet.sock"),
        ({"XDG_RUNTIME_DIR": "/rt/"}, 1000, everywhere, "/rt/swarmlet/swarmlet.sock"),
        ({}, 1000, everywhere, "/run/user/1000/swarmlet/swarmlet.sock"),
        ({"HOME": "/h"}, 1000, nowhere, "/h/.local/share/swarmlet/swarmlet.sock"),
    ],
)
def test_host_follows_the_user(env, uid, exists, expected):
    assert default_host(env, uid, exists) == f"unix://{expected}"


def test_host_falls_back_to_the_named_data_dir():
    assert default_host({}, 1000, nowhere, data_dir="/d") == "unix:///d/swarmlet.sock"


@pytest.mark.parametrize("host", ["unix:///a/b.sock", "/a/b.sock"])
def test_socket_path_takes_an_url_and_a_plain_path(host):
    assert socket_path(host) == "/a/b.sock"


@pytest.mark.parametrize("host", ["tcp://1.2.3.4:2375", "unix://relative", "relative", ""])
def test_socket_path_refuses_what_is_no_absolute_unix_socket(host):
    with pytest.raises(InvalidArgumentError) as caught:
        socket_path(host)
    assert "unix:///" in caught.value.remedy


def test_socket_path_proposes_a_shorter_one_when_it_is_too_long():
    longest = "/" + "x" * (SOCKET_PATH_LENGTH_MAX_B - 1)
    assert socket_path(longest) == longest
    with pytest.raises(InvalidArgumentError) as caught:
        socket_path(longest + "x")
    assert "108 bytes" in caught.value.message
    assert "unix:///tmp/" in caught.value.remedy
