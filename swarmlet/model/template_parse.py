"""From a template's text to its tree: tokens, then recursive descent, one method a rule."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.template_functions import FUNCTIONS, Value

DEPTH_MAX: Final = 50  # nested blocks and parentheses; far below Python's own recursion limit

_TOKEN: Final = re.compile(
    r"""
      (?P<close> (?:\s+-)?\}\} )
    | (?P<space> \s+ )
    | (?P<string> "(?:[^"\\\n]|\\.)*" | `[^`]*` )
    | (?P<number> [-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w) )
    | (?P<variable> \$\w* )
    | (?P<field> \.[^\W\d]\w* )
    | (?P<dot> \. )
    | (?P<word> [^\W\d]\w* )
    | (?P<assign> := | = )
    | (?P<mark> [|(),] )
    """,
    re.VERBOSE,
)
_COMMENT: Final = re.compile(r"\{\{(-\s)?\s*/\*.*?\*/\s*?(\s-)?\}\}", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "a": "\a", "b": "\b"}
_CONSTANTS: Final[Mapping[str, Value]] = {"true": True, "false": False, "nil": None}
_BLOCKS: Final = ("if", "range", "with")
_REFUSED: Final = ("define", "template", "block", "break", "continue")


class TemplateError(InvalidArgumentError):
    """The template is no template, or does not fit the data; the sentence says where."""

    code = "template"


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is a group of _TOKEN, or "text", or "open"; `start` and `end` are offsets."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Operand:
    """A value and the fields taken of it. `kind`: dot, variable, constant, function, pipe."""

    kind: str
    value: Value
    path: tuple[str, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Pipe:
    """`names` are declared, or set where `is_set`; the value of each command ends the next one."""

    commands: tuple[tuple[Operand, ...], ...]
    names: tuple[str, ...]
    is_set: bool
    at: int


@dataclass(frozen=True, slots=True)
class Piece:
    """`kind`: text, output, if, range, with; `body` and `other` belong to the last three."""

    kind: str
    text: str = ""
    pipe: Pipe | None = None
    body: tuple["Piece", ...] = ()
    other: tuple["Piece", ...] = ()


def wrong(source: str, at: int, problem: str) -> TemplateError:
    """The error that says `problem` and where `at`, an offset in `source`, is."""
    line = source.count("\n", 0, at) + 1
    column = at - source.rfind("\n", 0, at)
    return TemplateError(
        f"The template is wrong at line {line}, column {column}: {problem}.",
        remedy=f"Known are fields, if, range, with and {', '.join(FUNCTIONS)}.",
    )


def tokens_of(source: str) -> list[Token]:
    """Text tokens between actions; each action as an open token, its tokens, and a close token."""
    tokens: list[Token] = []
    at, trim = 0, False
    while (start := source.find("{{", at)) >= 0:
        comment = _COMMENT.match(source, start)
        trim_before = (
            source[start + 2 : start + 3] == "-" and source[start + 3 : start + 4].isspace()
        )
        tokens.append(_text_token(source, at, start, trim_head=trim, trim_tail=trim_before))
        if comment:
            at, trim = comment.end(), bool(comment.group(2))
            continue
        tokens.append(Token("open", "{{", start, start + 2))
        at = _action(source, start + (3 if trim_before else 2), tokens)
        trim = tokens[-1].text != "}}"
    tokens.append(_text_token(source, at, len(source), trim_head=trim, trim_tail=False))
    return tokens


def _text_token(source: str, start: int, end: int, *, trim_head: bool, trim_tail: bool) -> Token:
    text = source[start:end]
    if trim_head:
        text = text.lstrip()
    if trim_tail:
        text = text.rstrip()
    return Token("text", text, start, end)


def _action(source: str, at: int, tokens: list[Token]) -> int:
    """Append the tokens of one action including its close; return the offset behind it."""
    opened = at
    while match := _TOKEN.match(source, at):
        kind, at = match.lastgroup or "", match.end()
        if kind != "space":
            tokens.append(Token(kind, match.group(), match.start(), at))
        if kind == "close":
            return at
    if at >= len(source):
        raise wrong(source, opened, "the action is never closed with }}")
    raise wrong(source, at, f"unexpected {source[at]!r}")


class Parser:
    """Recursive descent over the tokens, one method a rule."""

    def __init__(
        self,
        source: str,
        tokens: list[Token],
        functions: Mapping[str, Callable[..., Value]] = FUNCTIONS,
    ) -> None:
        self.source = source
        self.functions = functions
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def block(self, until: tuple[str, ...]) -> tuple[Piece, ...]:
        """Pieces up to an action that begins with a word of `until`; that action's word is next."""
        pieces: list[Piece] = []
        while (token := self._next()) is not None:
            if token.kind == "text":
                pieces.append(Piece("text", text=token.text))
                continue
            word = self._peek()
            if word.kind == "word" and word.text in ("end", "else"):
                if word.text in until:
                    return tuple(pieces)
                self._fail(word, f"unexpected {word.text}")
            pieces.append(self._action(word))
        if until:
            self._fail(self.tokens[-1], "a block is never closed with {{end}}", at_end=True)
        return tuple(pieces)

    def _action(self, word: Token) -> Piece:
        if word.kind == "word" and word.text in _BLOCKS:
            self._next()
            return self._branch(word)
        if word.kind == "word" and word.text in _REFUSED:
            self._fail(word, f"{word.text} is not supported")
        pipe = self._pipe()
        self._expect("close")
        return Piece("output", pipe=pipe)

    def _branch(self, word: Token) -> Piece:
        """An if, range or with, behind its word, up to and including its end."""
        self._enter(word)
        pipe = self._pipe(names_max=2 if word.text == "range" else 1)
        self._expect("close")
        body = self.block(("end", "else"))
        other: tuple[Piece, ...] = ()
        if self._expect("word").text == "else":
            other = self._otherwise(word)
        else:
            self._expect("close")
        self.depth -= 1
        return Piece(word.text, pipe=pipe, body=body, other=other)

    def _otherwise(self, word: Token) -> tuple[Piece, ...]:
        """What follows an else: a block with its end, or another if that shares ours."""
        if (chained := self._peek()).text == word.text and word.text in ("if", "with"):
            self._next()
            return (self._branch(chained),)
        self._expect("close")
        other = self.block(("end",))
        self._expect("word")
        self._expect("close")
        return other

    def _pipe(self, names_max: int = 1) -> Pipe:
        start = self._peek()
        names, is_set = self._declared(names_max)
        commands = [self._command()]
        while self._peek().text == "|":
            self._next()
            commands.append(self._command())
        return Pipe(tuple(commands), names, is_set, start.start)

    def _declared(self, names_max: int) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$x =` or `$i, $v :=` where one is next."""
        for count in range(1, names_max + 1):
            ahead = self.tokens[self.at : self.at + 2 * count]
            if [t.kind for t in ahead[::2]] != ["variable"] * count or len(ahead) < 2 * count:
                continue
            if ahead[-1].kind == "assign" and all(t.text == "," for t in ahead[1:-1:2]):
                self.at += 2 * count
                return tuple(t.text for t in ahead[::2]), ahead[-1].text == "="
        return (), False

    def _command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while self._peek().kind != "close" and self._peek().text not in ("|", ")"):
            operands.append(self._operand())
        if not operands:
            self._fail(self._peek(), "a value is missing")
        if len(operands) > 1 and operands[0].kind != "function":
            raise wrong(self.source, operands[1].at, "only a function takes arguments")
        return tuple(operands)

    def _operand(self) -> Operand:
        token = self._expect()
        kind, value, path = self._primary(token)
        end = self.tokens[self.at - 1].end
        while (follow := self._peek()).kind == "field" and follow.start == end:
            path += (follow.text[1:],)
            end = self._expect().end
        return Operand(kind, value, path, token.start)

    def _primary(self, token: Token) -> tuple[str, Value, tuple[str, ...]]:
        """Kind, value and first field of the operand that begins with `token`."""
        match token.kind:
            case "dot":
                return "dot", None, ()
            case "field":
                return "dot", None, (token.text[1:],)
            case "variable":
                return "variable", token.text, ()
            case "number" | "string":
                return "constant", self._constant(token), ()
            case "word":
                return *self._named(token), ()
            case _:
                return "pipe", self._parenthesis(token), ()

    def _constant(self, token: Token) -> Value:
        try:
            return _constant(token)
        except ValueError:  # Python reads no number of thousands of digits
            self._fail(token, "the number is too long")

    def _named(self, token: Token) -> tuple[str, Value]:
        if token.text in _CONSTANTS:
            return "constant", _CONSTANTS[token.text]
        if token.text not in self.functions:
            self._fail(token, f"there is no function {token.text!r}")
        return "function", token.text

    def _parenthesis(self, token: Token) -> Pipe:
        if token.text != "(":
            self._fail(token, f"unexpected {token.text!r}")
        self._enter(token)
        pipe = self._pipe(names_max=0)
        if self._expect().text != ")":
            self._fail(token, "the parenthesis is never closed")
        self.depth -= 1
        return pipe

    def _enter(self, token: Token) -> None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            self._fail(token, f"more than {DEPTH_MAX} blocks or parentheses in each other")

    def _next(self) -> Token | None:
        if self.at >= len(self.tokens):
            return None
        self.at += 1
        return self.tokens[self.at - 1]

    def _peek(self) -> Token:
        return self.tokens[self.at]  # an action always ends with a close token

    def _expect(self, kind: str = "") -> Token:
        token = self.tokens[self.at]
        if kind and token.kind != kind:
            self._fail(token, f"unexpected {token.text!r}")
        self.at += 1
        return token

    def _fail(self, token: Token, problem: str, *, at_end: bool = False) -> NoReturn:
        raise wrong(self.source, token.end if at_end else token.start, problem)


def _constant(token: Token) -> Value:
    text = token.text
    if token.kind == "number":
        return float(text) if any(c in text for c in ".eE") else int(text)
    if text[0] == "`":
        return text[1:-1]
    return _ESCAPE.sub(_unescaped, text[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)
