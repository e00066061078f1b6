"""What never leaves this host in a log or a bundle, and how it is taken out of texts and objects.

Two nets: by name (an environment, a label, a field called Password) and by shape (a token, a key
in PEM, a password in an address). A Redactor also remembers what it took out by name, and takes
the same values out of every text it sees later.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

REDACTED: Final = "<redacted>"
VALUE_LENGTH_MIN: Final = 6
"""A shorter value is taken out where it stands, but not wherever it occurs again.

Nor is one that may be anything, a plain word, a number or a path (`running`, `/bin/sh`), unless it
stood in a variable with a telling name.
"""

_SHAPES: Final = (
    # (what a text has in lower case where the shape can be in it at all, the shape, what instead)
    # join tokens and unlock keys, as Docker writes them
    (("swm",), re.compile(r"\bSWM(TKN|KEY)-[A-Za-z0-9+/=-]+"), rf"SWM\1-{REDACTED}"),
    # keys in PEM, also with the line ends of JSON
    (
        ("private key",),
        re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL),
        rf"-----BEGIN \1----- {REDACTED}",
    ),
    # a name and a password in an address
    (
        ("://",),
        re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@\"']+@", re.IGNORECASE),
        rf"\1{REDACTED}@",
    ),
    # what follows a telling word, to the line's end
    (
        ("auth",),
        re.compile(r"\b(authorization|x-registry-auth)([\"']?\s*[:=]\s*).*", re.IGNORECASE),
        rf"\1\2{REDACTED}",
    ),
    # the same, to the end of its quotes or of the word
    (
        ("pass", "token", "secret", "key"),
        re.compile(
            r"((?:password|passwd|passphrase|token|secret|(?:api|private|secret|access)[-_]?key)"
            r"\\?[\"']?\s*[:=]\s*)(?:(?P<q>\\?[\"'])(?:(?!(?P=q)).)*(?P=q)|[^\s,;&\"']+)",
            re.IGNORECASE,
        ),
        rf"\1\g<q>{REDACTED}\g<q>",
    ),
)
_SECRET_FIELDS: Final = re.compile(
    r"(password|passwd|passphrase|tokens?|auth|authorization|registryauth|x-registry-auth"
    r"|unlockkey|signingcakey|privatekey|apikey|data|args)$",
    re.IGNORECASE,
)
_COMMON: Final = re.compile(r"[a-z]{1,15}|[A-Z]{1,15}|[0-9]+|/[\w./-]*")
_TELLING: Final = re.compile(r"pass|pwd|secret|token|key|auth|cred", re.IGNORECASE)
_IN_SCRIPT: Final = re.compile(
    r"((?:\b\w{0,60}(?:pass|pwd|secret|token|key|auth|cred)\w{0,60}="
    r"|(?<!\S)--?[\w-]{0,60}(?:pass|pwd|secret|token|key|auth|cred)[\w-]{0,60}[ \t]{1,9}(?!-)))"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s;|&<>'\"]+)",
    re.IGNORECASE,
)
"""An option or variable with a telling name within a line of a shell, and its value."""

_PAIRS: Final = frozenset({"env"})  # lists of KEY=VALUE
_COMMANDS: Final = frozenset({"command", "test", "entrypoint", "cmd"})  # the first word is kept
_MAPS: Final = frozenset({"options", "driveropts", "labels"})
_HARMLESS: Final = (
    "com.docker.stack.",
    "com.docker.swarm.",
    "org.opencontainers.image.",
    "swarmlet.",
)
"""Labels that tools write, kept: they tell what belongs together."""


def redact_text(text: str) -> str:
    """`text` without what looks like a secret."""
    lower = text.lower()
    for signs, shape, instead in _SHAPES:
        if any(sign in lower for sign in signs):
            text = shape.sub(instead, text)
    return text


def redact_arguments(arguments: Iterable[str]) -> str:
    """An argument list as one line, without what looks like a secret: by shape, the value of an
    option or variable with a telling name, and what follows such an option."""
    shown: list[str] = []
    is_value = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_telling = bool(_TELLING.search(name)) and len(name.split()) == 1
        if is_value and not argument.startswith("-"):
            shown.append(REDACTED)
        elif is_telling and equals:
            shown.append(f"{name}={REDACTED}")
        else:
            shown.append(redact_text(_IN_SCRIPT.sub(rf"\1{REDACTED}", argument)))
        is_value = is_telling and not equals and argument.startswith("-")
    return " ".join(shown)


class Redactor:
    """Takes secrets out of the API's objects, then out of texts.

    `keeps_labels` of `object` is for nodes: their labels say where tasks may run.
    """

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._compiled: re.Pattern[str] | None = None

    def object(self, found: Any, *, keeps_labels: bool = False) -> Any:  # noqa: ANN401 - JSON
        """`found` (what a JSON text can be) with every value that may be a secret replaced."""
        match found:
            case dict():
                return {
                    key: self._field(key, value, keeps_labels=keeps_labels)
                    for key, value in found.items()
                }
            case list():
                return [self.object(each, keeps_labels=keeps_labels) for each in found]
            case str():
                return redact_text(found)
            case _:
                return found

    def text(self, text: str) -> str:
        """`text` without what looks like a secret, and without any value taken out before."""
        return redact_text(str(self.known(text)))

    def known(self, found: Any) -> Any:  # noqa: ANN401 - JSON
        """`found` (what a JSON text can be) without the values taken out before."""
        match found:
            case dict():
                return {self.known(key): self.known(value) for key, value in found.items()}
            case list():
                return [self.known(each) for each in found]
            case str():
                return self._pattern().sub(REDACTED, found) if self._values else found
            case _:
                return found

    def _pattern(self) -> re.Pattern[str]:
        """Any known value, the longest first, plain or as JSON escapes it."""
        if self._compiled is None:
            forms = self._values | {json.dumps(value)[1:-1] for value in self._values}
            ordered = sorted(forms, key=lambda form: (-len(form), form))
            self._compiled = re.compile("|".join(map(re.escape, ordered)))
        return self._compiled

    def _field(self, key: str, value: Any, *, keeps_labels: bool) -> Any:  # noqa: ANN401 - JSON
        name = key.lower()
        if name in _PAIRS and isinstance(value, list):
            return [self._pair(each) for each in value]
        if name in _COMMANDS and isinstance(value, list):
            return [*value[:1], *[self._take(each) for each in value[1:]]]
        if name in _MAPS and isinstance(value, dict) and not (keeps_labels and name == "labels"):
            return self._map(value)
        if _SECRET_FIELDS.search(name) and value and not isinstance(value, bool | int):
            return self._all(value)
        return self.object(value, keeps_labels=keeps_labels)

    def _pair(self, pair: Any) -> str:  # noqa: ANN401 - JSON
        name, equals, value = str(pair).partition("=")
        is_telling = bool(_TELLING.search(name))
        return f"{name}={self._take(value, is_telling=is_telling)}" if equals else name

    def _map(self, pairs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: self.object(value) if key.startswith(_HARMLESS) else self._take(value)
            for key, value in pairs.items()
        }

    def _all(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        """The same shape with every text taken out."""
        match value:
            case dict():
                return {key: self._all(each) for key, each in value.items()}
            case list():
                return [self._all(each) for each in value]
            case _:
                return self._take(value, is_telling=True)

    def _take(self, value: Any, *, is_telling: bool = False) -> str:  # noqa: ANN401 - JSON
        is_known = isinstance(value, str) and len(value) >= VALUE_LENGTH_MIN
        if is_known and (is_telling or not _COMMON.fullmatch(value)):
            self._values.add(value)
            self._compiled = None
        return REDACTED
