"""Go's text/template, the part of it that people use: one engine for specs and for `--format`.

Understood: fields, variables, pipelines, `if`/`else if`/`else`, `range` (with `$i, $v`), `with`,
trimming with `-`, comments, and the functions in `template_functions`. Anything else is a
TemplateError that says where. A template cannot run for ever: data is finite, and steps, depth and
output are bounded. Semantics: the documentation of Go's package text/template; the functions as
Docker's CLI and SwarmKit's spec templates have them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from swarmlet.model.template_functions import FUNCTIONS, Value, printed
from swarmlet.model.template_parse import (
    Operand,
    Parser,
    Piece,
    Pipe,
    TemplateError,
    tokens_of,
    wrong,
)

__all__ = ["Template", "TemplateError", "compile"]

# pieces rendered, rounds and calls; nested ranges over a cluster's objects stay far below
STEPS_MAX: Final = 200_000
OUTPUT_LENGTH_MAX: Final = 4_194_304  # characters; four times the largest config
WORK_LENGTH_MAX: Final = 67_108_864  # characters that all calls together take and give


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template, to be rendered any number of times."""

    source: str
    pieces: tuple[Piece, ...]
    is_lenient: bool
    functions: Mapping[str, Callable[..., Value]] = field(default_factory=lambda: FUNCTIONS)

    def render(self, data: Mapping[str, Value]) -> str:
        """The text for `data`. Raises TemplateError where the template does not fit it."""
        run = _Run(self, data)
        run.pieces(self.pieces, data)
        return "".join(run.out)


def compile(
    text: str,
    *,
    is_lenient: bool = False,
    functions: Mapping[str, Callable[..., Value]] = FUNCTIONS,
) -> Template:
    """Parse `text`. Raises TemplateError.

    A missing map key is an error, as in specs; where `is_lenient` it prints `<no value>`, as
    Docker's CLI does. `functions`: all that it may call; what one raises, TypeError or ValueError,
    becomes a TemplateError.
    """
    parser = Parser(text, tokens_of(text), functions)
    pieces = parser.block(())
    return Template(source=text, pieces=pieces, is_lenient=is_lenient, functions=functions)


class _Run:
    """One rendering: the output so far and the variables in scope, innermost last."""

    def __init__(self, template: Template, root: Mapping[str, Value]) -> None:
        self.source, self.is_lenient = template.source, template.is_lenient
        self.functions = template.functions
        self.out: list[str] = []
        self.variables: list[tuple[str, Value]] = [("$", root)]
        self.steps = 0
        self.length = self.work_length = 0

    def pieces(self, pieces: tuple[Piece, ...], dot: Value) -> None:
        for piece in pieces:
            self._step(piece.pipe.at if piece.pipe else 0)
            if piece.pipe is None:
                self._write(piece.text)
            elif piece.kind == "output":
                value = self._pipe(piece.pipe, dot)
                if not piece.pipe.names:
                    self._write(printed(value))
            else:
                scope = len(self.variables)
                self._branch(piece, piece.pipe, dot)
                del self.variables[scope:]

    def _branch(self, piece: Piece, pipe: Pipe, dot: Value) -> None:
        if piece.kind == "range":
            self._each(piece, pipe, dot)
            return
        value = self._pipe(pipe, dot)
        inner = value if piece.kind == "with" and value else dot
        self.pieces(piece.body if value else piece.other, inner)

    def _each(self, piece: Piece, pipe: Pipe, dot: Value) -> None:
        value = self._commands(pipe, dot)
        if isinstance(value, Mapping):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise wrong(
                self.source, pipe.at, f"range needs a list or a map, not {printed(value)!r}"
            )
        if not pairs:
            self.pieces(piece.other, dot)
        scope = len(self.variables)
        for pair in pairs:
            self._step(pipe.at)
            named = zip(pipe.names, pair if len(pipe.names) > 1 else pair[1:], strict=False)
            self.variables[scope:] = named
            self.pieces(piece.body, pair[1])

    def _pipe(self, pipe: Pipe, dot: Value) -> Value:
        value = self._commands(pipe, dot)
        for name in pipe.names:
            if pipe.is_set:
                self.variables[self._place_of(name, pipe.at)] = (name, value)
            else:
                self.variables.append((name, value))
        return value

    def _commands(self, pipe: Pipe, dot: Value) -> Value:
        piped: tuple[Value, ...] = ()
        for command in pipe.commands:
            piped = (self._command(command, dot, piped),)
        return piped[0]

    def _command(self, command: tuple[Operand, ...], dot: Value, piped: tuple[Value, ...]) -> Value:
        first = command[0]
        if first.kind != "function":
            if piped:
                raise wrong(self.source, first.at, "only a function takes what is piped into it")
            return self._operand(first, dot)
        if first.value in ("and", "or"):
            return self._first_that_decides(command, dot, piped)
        arguments = [self._operand(operand, dot) for operand in command[1:]]
        return self._called(first, [*arguments, *piped])

    def _first_that_decides(
        self,
        command: tuple[Operand, ...],
        dot: Value,
        piped: tuple[Value, ...],
    ) -> Value:
        """`and` and `or` look at no argument behind the one that decides."""
        value: Value = None
        for operand in command[1:]:
            value = self._operand(operand, dot)
            if bool(value) is (command[0].value == "or"):
                return value
        if piped:
            return piped[0]
        if len(command) == 1:
            raise wrong(self.source, command[0].at, f"{command[0].value} needs an argument")
        return value

    def _called(self, function: Operand, arguments: list[Value]) -> Value:
        if function.path:
            raise wrong(self.source, function.at, f"{function.value} has no fields")
        self._step(function.at)
        try:
            result = self.functions[function.value](*arguments)
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong(self.source, function.at, f"{function.value}: {error}") from error
        self.work_length += sum(len(v) for v in (*arguments, result) if isinstance(v, str))
        if self.work_length > WORK_LENGTH_MAX:
            problem = f"its functions take more than {WORK_LENGTH_MAX} characters"
            raise wrong(self.source, function.at, problem)
        return result

    def _operand(self, operand: Operand, dot: Value) -> Value:
        match operand.kind:
            case "dot":
                value = dot
            case "variable":
                value = self.variables[self._place_of(operand.value, operand.at)][1]
            case "pipe":
                value = self._pipe(operand.value, dot)
            case "function":
                return self._command((operand,), dot, ())
            case _:
                value = operand.value
        for name in operand.path:
            value = self._field(value, name, operand.at)
        return value

    def _field(self, value: Value, name: str, at: int) -> Value:
        if isinstance(value, Mapping):
            if name in value:
                return value[name]
            if self.is_lenient:
                return None
            known = ", ".join(f".{key}" for key in sorted(value)) or "none"
            raise wrong(self.source, at, f"there is no field .{name} (there are: {known})")
        if value is None and self.is_lenient:
            return None
        raise wrong(self.source, at, f"{printed(value)!r} has no field .{name}")

    def _place_of(self, name: str, at: int) -> int:
        for place in range(len(self.variables) - 1, -1, -1):
            if self.variables[place][0] == name:
                return place
        raise wrong(self.source, at, f"the variable {name} is not declared")

    def _write(self, text: str) -> None:
        self.length += len(text)
        if self.length > OUTPUT_LENGTH_MAX:
            raise wrong(self.source, 0, f"it prints more than {OUTPUT_LENGTH_MAX} characters")
        self.out.append(text)

    def _step(self, at: int) -> None:
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise wrong(self.source, at, f"it takes more than {STEPS_MAX} steps")
