"""Image references, after the table of distribution/reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.reference import Reference, parse_reference

SHA = "sha256:" + "0123456789abcdef" * 4

GOOD = [
    ("host", Reference(path="host")),
    ("busybox:1", Reference(path="busybox", tag="1")),
    ("a/b/c", Reference(path="a/b/c")),
    ("reg:5000/a/b", Reference(domain="reg:5000", path="a/b")),
    (f"reg:5000/a/b@{SHA}", Reference(domain="reg:5000", path="a/b", digest=SHA)),
    (
        f"docker.io/library/busybox:1.36@{SHA}",
        Reference(domain="docker.io", path="library/busybox", tag="1.36", digest=SHA),
    ),
    ("localhost/a", Reference(domain="localhost", path="a")),
    ("Host/a:T_a-g.1", Reference(domain="Host", path="a", tag="T_a-g.1")),
    ("[2001:db8::1]:5000/a", Reference(domain="[2001:db8::1]:5000", path="a")),
    ("192.168.1.1/a", Reference(domain="192.168.1.1", path="a")),
    ("a__b/c--d/e.f", Reference(path="a__b/c--d/e.f")),
    ("xn--n3h.com/a", Reference(domain="xn--n3h.com", path="a")),
    ("a:" + "t" * 128, Reference(path="a", tag="t" * 128)),
    ("a" * 255, Reference(path="a" * 255)),
    ("reg:5000", Reference(path="reg", tag="5000")),
    ("5000/a", Reference(path="5000/a")),
    ("a" * 63, Reference(path="a" * 63)),
]

BAD = [
    "",
    ":1",
    "@" + SHA,
    "a:",
    "a@",
    "a@sha256:abc",
    "a@sha256:" + "0" * 63,
    "a@md5:" + "0" * 31,
    "a@:" + "0" * 64,
    "Bad",
    "a/B",
    "-a",
    "a-",
    "a//b",
    "/a",
    "a/",
    "a..b",
    "a___b",
    "a b",
    "a:t g",
    "a:-t",
    "a:" + "t" * 129,
    "a" * 256,
    "a" * 100_000,
    "0123456789abcdef" * 4,
    "http://reg/a",
    "-reg.com/a",
    "reg.com:port/a",
    "ä",
    "a\n",
    "a:1\n",
]


@pytest.mark.parametrize(("text", "reference"), GOOD, ids=[text[:40] for text, _ in GOOD])
def test_good_reference_is_taken_apart(text, reference):
    assert parse_reference(text) == reference


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:40])
def test_bad_reference_is_refused_with_a_sentence(text):
    with pytest.raises(InvalidArgumentError, match="invalid image reference") as refused:
        parse_reference(text)
    assert len(refused.value.message) < 2_000


@given(st.text(alphabet="aB1:/@.-_[]", max_size=20))
def test_what_is_accepted_is_made_of_its_parts(text):
    try:
        parts = parse_reference(text)
    except InvalidArgumentError:
        return
    again = f"{parts.domain}/{parts.path}" if parts.domain else parts.path
    again += f":{parts.tag}" if parts.tag else ""
    assert text == again + (f"@{parts.digest}" if parts.digest else "")
