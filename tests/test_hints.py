"""Every error that a user can meet is a sentence, and its hint leads somewhere: read from the program's text.

A message or hint that is put together at another place than where it is raised counts by the parts that stand there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

import reincli.errors
from reincli.cli import COMMANDS, app

PACKAGE = Path(reincli.errors.__file__).parent
ERRORS = {"ReinError", "NoVideoError", "CutShortError", "damaged"}
WITHOUT = {"settings_files.py", "_look_at_weights", "_look_at_archive", "_look_at_picture"}
"""A file where what is wrong with a value is told with what was expected, and functions whose caller knows the step."""
NAMES = {"timm", "onnxruntime"}
"""Names that begin a sentence as they are written."""
SLOT = "\x1a"
"""Stands for what is put into a sentence."""


@dataclass(frozen=True)
class Raised:
    """An error as it stands in the text: where, in which function, its message and its hint; None: put together."""

    place: str
    function: str
    message: str | None
    hint: str | None
    hinted: bool

    def __str__(self) -> str:
        return self.place


def text_of(node: ast.expr | None) -> str | None:
    """The text of an expression with a slot for each value; None where it is no text as it stands."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else SLOT for v in node.values]
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [text_of(node.left), text_of(node.right)]
        return None if parts == [None, None] else "".join(part or SLOT for part in parts)
    return None


def texts_of(node: ast.expr | None) -> list[str]:
    """All that an expression may say: both sides of a choice."""
    if isinstance(node, ast.IfExp):
        return texts_of(node.body) + texts_of(node.orelse)
    text = text_of(node)
    return [] if text is None else [text]


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Calls that make errors, each with the function around it."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            name = child.name if isinstance(child, ast.FunctionDef) else function
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Name) and child.func.id in ERRORS:
                yield name, child
            yield from visit(child, name)

    yield from visit(tree, "")


def collect() -> list[Raised]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for function, call in calls(ast.parse(path.read_text("utf-8"))):
            if call.func.id == "damaged":  # type: ignore[attr-defined]
                continue  # it makes the sentence and the hint itself
            given = {word.arg: word.value for word in call.keywords}
            message = call.args[0] if call.args else given.get("message")
            hint = call.args[1] if len(call.args) > 1 else given.get("hint")
            for said in texts_of(message) or [None]:
                for told in texts_of(hint) or [None]:
                    place = f"{where}:{call.lineno}"
                    found.append(Raised(place, function, said, told, hint is not None))
    return found


RAISED = collect()
HINTS = [each for each in RAISED if each.hint is not None]


def test_they_are_collected():
    assert len(RAISED) > 300
    assert len(HINTS) > 250


@pytest.mark.parametrize("raised", [each for each in RAISED if each.message is not None], ids=str)
def test_a_message_is_a_sentence(raised):
    message = str(raised.message)
    assert message.endswith((".", "?", SLOT)), message
    first = message.split()[0]
    assert message[0] in SLOT + "'-" or message[0].isupper() or "." in first or first in NAMES, message
    assert "  " not in message, message
    assert not re.search(r"\b(please|sorry|oops|invalid|illegal)\b", message, re.IGNORECASE), message


@pytest.mark.parametrize("raised", RAISED, ids=str)
def test_there_is_a_next_step(raised):
    if {raised.place.split(":")[0], raised.function} & WITHOUT and not raised.hinted:
        assert raised.message is None or SLOT in raised.message
        return
    assert raised.hinted, raised.message
    assert raised.hint is None or len(raised.hint) > 3


@pytest.mark.parametrize("raised", HINTS, ids=str)
def test_no_hint_recommends_deleting_what_may_be_good(raised):
    assert not re.search(
        rf"\b([Rr]emove|[Dd]elete|[Ee]rase|rm) (it|the (file|folder|copy|data)|them|{SLOT}|'{SLOT}')",
        raised.hint,
    )


@pytest.mark.parametrize("raised", HINTS, ids=str)
def test_a_hint_is_a_sentence_or_ends_with_what_is_to_be_typed(raised):
    typed = re.search(r"(: |\b(rein|pip) |--|https?:|=|/|\bor )((?!\. ).)*$", raised.hint)
    assert raised.hint.endswith((".", "?", SLOT)) or typed, raised.hint
    assert "  " not in raised.hint.replace("   or ", " or "), raised.hint


@pytest.mark.parametrize("raised", HINTS, ids=str)
def test_a_hint_differs_from_its_message(raised):
    assert raised.hint.strip(". ") != (raised.message or "").strip(". ")


OPTIONS = {
    name: {option for each in command.params for option in each.opts}
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("raised", [each for each in HINTS if "rein " in each.hint], ids=str)
def test_the_commands_of_hints_exist(raised):
    for command in re.findall(r"\brein ([a-z][a-z-]*)", raised.hint):
        assert command in COMMANDS, raised.hint


@pytest.mark.parametrize("raised", [each for each in HINTS if "--" in each.hint], ids=str)
def test_the_options_of_hints_exist(raised):
    everywhere = set().union(*OPTIONS.values())
    command = re.search(r"\brein ([a-z][a-z-]*)", raised.hint)
    after = raised.hint[command.start() :] if command else ""
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", raised.hint):
        assert option in everywhere, f"{option}: {raised.hint}"
    if (
        command
        and after.count("rein ") == 1
        and "; " not in after
        and ". " not in after
        and " or " not in after
    ):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", after):
            assert option in OPTIONS[command[1]], f"{command[1]} {option}: {raised.hint}"


@pytest.mark.parametrize("raised", [each for each in HINTS if "commands/" in each.place], ids=str)
def test_no_hint_of_a_command_is_that_command_alone(raised):
    """'rein NAME' and nothing more would fail again; with an argument or an option it is another call."""
    own = Path(raised.place.split(":")[0]).stem.replace("_", "-")
    bare = re.search(rf"\brein {re.escape(own)}\b(?P<rest>[^.;]*)", raised.hint)
    if bare:
        assert re.search(rf"[A-Z{SLOT}-]", bare["rest"]), raised.hint


def test_a_dataset_is_prepared_in_the_folder_where_it_lies():
    """`data.missing.command_for` alone writes the command for a dataset, so that no hint loses its folder."""
    for each in HINTS:
        for rest in re.findall(rf"rein prepare-data {SLOT}(.*)", each.hint, re.DOTALL):
            assert rest.startswith(f" {SLOT}"), each
