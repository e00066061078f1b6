"""Addresses, ports and pools of a swarm."""

import pytest

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.address import (
    Address,
    address_pools,
    data_path_port,
    ipam_pool,
    parse_address,
    parse_host,
)
from swarmlet.model.network import IPAMPool


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:2377", "0.0.0.0", 2377),
        ("10.0.0.1", "10.0.0.1", 2377),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("eth0:65535", "eth0", 65535),
        (f"{'a' * 63}.b", f"{'a' * 63}.b", 2377),
        ("node-1.example.com", "node-1.example.com", 2377),
        ("[::]:2377", "::", 2377),
        ("[2001:db8::1]", "2001:db8::1", 2377),
        ("2001:db8::1", "2001:db8::1", 2377),
        ("::", "::", 2377),
    ],
)
def test_address_is_taken_apart(text, host, port):
    assert parse_address(text, "ListenAddr") == Address(host=host, port=port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":2377",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:x",
        "10.0.0.1:٣",
        "10.0.0.1:-1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[10.0.0.1]:1",
        "a b",
        "/x",
        "1:2:3",
        "a" * 300,
        "a" * 64,
        f"{'a' * 64}.example.com",
        "a..b",
        "http://10.0.0.1",
        "10.0.0.1:2377/x",
        "10.0.0.1\n",
    ],
)
def test_bad_address_is_refused_and_its_field_named(text):
    with pytest.raises(InvalidArgumentError, match=r"^invalid AdvertiseAddr"):
        parse_address(text, "AdvertiseAddr")


def test_empty_address_is_refused_in_dockers_words():
    with pytest.raises(InvalidArgumentError) as refused:
        parse_address("", "ListenAddr")
    assert refused.value.message == 'invalid ListenAddr "": invalid empty address'


def test_address_is_written_with_brackets_where_it_needs_them():
    assert str(Address(host="::1", port=1)) == "[::1]:1"
    assert str(Address(host="a", port=1)) == "a:1"


def test_data_path_address_has_no_port():
    assert parse_host("eth0", "DataPathAddr") == "eth0"
    for text in ("10.0.0.1:5", "a" * 64, "a..b"):
        with pytest.raises(InvalidArgumentError, match="DataPathAddr"):
            parse_host(text, "DataPathAddr")


@pytest.mark.parametrize(("port", "used"), [(0, 4789), (1024, 1024), (49151, 49151)])
def test_data_path_port_has_a_default(port, used):
    assert data_path_port(port) == used


@pytest.mark.parametrize("port", [-1, 1, 1023, 49152, 70000])
def test_bad_data_path_port_is_refused(port):
    with pytest.raises(InvalidArgumentError, match="DataPathPort"):
        data_path_port(port)


@pytest.mark.parametrize(
    ("pools", "size", "result"),
    [
        ([], 0, (("10.0.0.0/8",), 24)),
        (["10.1.2.3/16"], 28, (("10.1.0.0/16",), 28)),
        (["10.0.0.0/16", "172.16.0.0/16"], 24, (("10.0.0.0/16", "172.16.0.0/16"), 24)),
    ],
)
def test_address_pools_have_defaults(pools, size, result):
    assert address_pools(pools, size) == result


@pytest.mark.parametrize(
    ("pools", "size", "sentence"),
    [
        ([], 30, "invalid SubnetSize 30: it must be 1 to 29"),
        ([], -1, "invalid SubnetSize -1: it must be 1 to 29"),
        (["x"], 24, "invalid DefaultAddrPool: invalid CIDR address: x"),
        (["10.0.0.0/25"], 24, "invalid DefaultAddrPool: 10.0.0.0/25 is smaller than one subnet"),
        (["10.0.0.0/8", "10.9.0.0/16"], 24, "invalid DefaultAddrPool: 10.9.0.0/16 and 10.0.0.0/8"),
    ],
)
def test_bad_address_pools_are_refused(pools, size, sentence):
    with pytest.raises(InvalidArgumentError) as refused:
        address_pools(pools, size)
    assert refused.value.message.startswith(sentence)


def test_pool_of_a_network_gets_its_first_address_as_gateway():
    assert ipam_pool(IPAMPool(subnet="10.9.0.7/24")) == IPAMPool(
        subnet="10.9.0.0/24", gateway="10.9.0.1"
    )
    given = IPAMPool(subnet="10.9.0.0/24", ip_range="10.9.0.128/25", gateway="10.9.0.9")
    assert ipam_pool(given) == given


@pytest.mark.parametrize(
    "pool",
    [
        IPAMPool(),
        IPAMPool(subnet="x"),
        IPAMPool(subnet="10.0.0.0/30"),
        IPAMPool(subnet="255.255.255.255/32"),
        IPAMPool(subnet="10.0.0.0/24", gateway="10.0.1.1"),
        IPAMPool(subnet="10.0.0.0/24", gateway="x"),
        IPAMPool(subnet="10.0.0.0/24", gateway="::1"),
        IPAMPool(subnet="10.0.0.0/24", ip_range="10.0.1.0/25"),
        IPAMPool(subnet="10.0.0.0/24", ip_range="2001:db8::/64"),
    ],
    ids=str,
)
def test_bad_pool_of_a_network_is_refused(pool):
    with pytest.raises(InvalidArgumentError, match=r"^invalid (subnet|gateway|ip-range)"):
        ipam_pool(pool)
