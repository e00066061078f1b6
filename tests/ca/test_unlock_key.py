"""The unlock key's text, its place in the cluster's row, and which of two is newer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.ca.unlock_key import (
    UNLOCKED,
    Kek,
    answer_of,
    is_newer,
    kek_in,
    kek_of,
    new_unlock_key,
    parse_unlock_key,
    unlock_key_text,
    unlock_keys_with,
    wrong_key,
)
from swarmlet.core.errors import DamagedError, InvalidArgumentError, UnauthorizedError
from swarmlet.model.cluster import Cluster, EncryptionConfig, SwarmSpec, UnlockKey
from swarmlet.wire.node_api import UnlockKeyAnswer

OF_DOCKER = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"
KEYS = st.binary(min_size=32, max_size=32)


def cluster(*keys, locks=True, version=7):
    spec = SwarmSpec(encryption_config=EncryptionConfig(auto_lock_managers=locks))
    return Cluster(id="c", spec=spec, unlock_keys=keys, version=version)


@given(KEYS)
def test_text_of_a_key_is_read_as_that_key(key):
    text = unlock_key_text(key)
    assert len(text) == len("SWMKEY-1-") + 43
    assert parse_unlock_key(f" {text}\n") == key


def test_key_that_docker_made_keeps_its_text():
    assert unlock_key_text(parse_unlock_key(OF_DOCKER)) == OF_DOCKER
    assert unlock_key_text(b"") == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bogus",
        OF_DOCKER[:-1],
        OF_DOCKER + "A",
        OF_DOCKER + "=",
        OF_DOCKER[9:],
        OF_DOCKER.replace("SWMKEY-1", "SWMKEY-2"),
        OF_DOCKER.replace("7", "!"),
        OF_DOCKER.replace("7", "é"),
        OF_DOCKER.replace("7", "-"),
    ],
)
def test_malformed_key_is_refused_with_dockers_words_and_not_repeated(text):
    with pytest.raises(InvalidArgumentError, match="invalid key string") as refused:
        parse_unlock_key(text)
    assert not text or text not in f"{refused.value}{refused.value.remedy}"


def test_wrong_key_is_a_401_with_dockers_words():
    assert wrong_key().http_status == 401
    assert wrong_key().message == "swarm could not be unlocked: invalid key provided"


def test_key_of_a_cluster_counts_while_it_locks_its_managers():
    key = new_unlock_key(lambda size_b: b"k" * size_b)
    (row,) = unlock_keys_with(key)
    assert kek_of(cluster(row)) == Kek(key=key, version=7)
    assert kek_of(cluster(row, locks=False)) == Kek(version=7)
    assert kek_of(cluster(UnlockKey(subsystem="another", key=b"x" * 32))) == Kek(version=7)
    assert unlock_keys_with(b"") == ()


@given(st.one_of(st.just(b""), KEYS), st.integers(min_value=0, max_value=2**63 - 1))
def test_key_arrives_as_it_was_told(key, version):
    kek = Kek(key=key, version=version)
    assert kek_in(answer_of(kek)) == kek
    assert str(kek) == "Kek(***)"


@pytest.mark.parametrize("told", ["AAAA", "not base 64", "é"])
def test_key_that_is_none_is_not_believed(told):
    with pytest.raises(UnauthorizedError):
        kek_in(UnlockKeyAnswer(key=told, version=1))


def kek(name, version):
    return Kek(key=name.encode().ljust(32, b".") if name else b"", version=version)


@pytest.mark.parametrize(
    ("present", "candidate", "newer"),
    [
        (UNLOCKED, kek("", 9), False),  # nothing to change
        (UNLOCKED, kek("a", 9), True),
        (kek("a", 3), kek("a", 9), False),  # the row changed, the key did not
        (kek("a", 3), kek("b", 9), True),
        (kek("a", 3), kek("", 9), True),
        (kek("b", 9), kek("a", 3), False),  # replayed from before
        (kek("b", 9), kek("", 3), False),
        (kek("b", 9), kek("b", 9), False),
    ],
)
def test_another_key_of_a_later_version_is_newer(present, candidate, newer):
    assert is_newer(candidate, present) is newer


def test_two_keys_of_one_version_are_an_error():
    with pytest.raises(DamagedError, match="version 3"):
        is_newer(kek("a", 3), kek("b", 3))
