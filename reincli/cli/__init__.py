"""The command line: one file a command with its options and its one call; here they become one program.

Nothing heavy is imported here, so that `rein --help` answers at once: torch alone takes seconds.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated, Any

import typer

from reincli.cli import (
    adapt,
    bench,
    calibrate,
    compare,
    convert_weights,
    demo,
    doctor,
    download,
    evaluate,
    export,
    prepare_data,
    presets,
    pretrain,
    train,
    visualize,
)
from reincli.cli.options import examples
from reincli.cli.termination import clear_up_when_told, exit_code
from reincli.errors import ReinError

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "pretrain": pretrain,
    "download": download,
    "prepare-data": prepare_data,
    "convert-weights": convert_weights,
    "train": train,
    "adapt": adapt,
    "eval": evaluate,
    "calibrate": calibrate,
    "compare": compare,
    "visualize": visualize,
    "export": export,
    "bench": bench,
    "presets": presets,
    "doctor": doctor,
}
"""What is typed -> the file with `command` and `EXAMPLES`, in the order of `rein --help`."""

app = typer.Typer(
    name="rein",
    help="Semantic segmentation that survives a change of domain: a frozen vision foundation model, "
    "Rein adapters and a Mask2Former head.",
    epilog="First steps:  rein doctor,  rein demo,  rein COMMAND --help",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry of the console script `rein`."""
    for stream in (sys.stdout, sys.stderr):  # names of files are any bytes; saying one is no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    clear_up_when_told()
    try:
        app(prog_name="rein")
    except KeyboardInterrupt as interrupt:  # before the command itself began
        print("Interrupted.", file=sys.stderr)
        sys.exit(exit_code(interrupt))


@contextmanager
def _errors_told(quiet: bool) -> Iterator[None]:
    """Run the body of a command; the one place where errors turn into a line and an exit code."""
    from reincli.commands import console

    console.configure(quiet=quiet)
    try:
        yield
    except ReinError as error:
        console.error(error.message, error.hint)
        raise typer.Exit(2 if error.usage else 1) from None
    except KeyboardInterrupt as interrupt:  # a command may put how far it came into the exception
        console.problem(f"Interrupted. {interrupt}".strip())
        raise typer.Exit(exit_code(interrupt)) from None
    except OSError as error:
        sentence = _disk_sentence(error)
        if sentence is None:
            raise
        console.error(*sentence)
        raise typer.Exit(1) from None
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        detail = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        console.error(
            f"Memory ran out{': ' if detail else ''}{detail}.",
            "See what else takes it (nvidia-smi, free), take smaller images, batches or models, or --device cpu.",
        )
        raise typer.Exit(1) from None
    finally:
        console.configure(quiet=False)


def _is_out_of_memory(error: BaseException) -> bool:
    """As `engine.device.is_out_of_memory`, which a command that never needed PyTorch does not load for it."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from reincli.engine.device import is_out_of_memory

    return is_out_of_memory(error)


def _disk_sentence(error: OSError) -> tuple[str, str] | None:
    """What is wrong and what to do, for errors of disks and names that anyone may meet; None for others."""
    where = f" '{error.filename}'" if error.filename else ""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"No space left on the disk{' for' + where if where else ''}.",
            "Free some, or choose another folder.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission to read or write{where or ' a file'}.", "Check its owner and mode."
    if error.errno == errno.ENAMETOOLONG:
        return f"The name{where[:80]} is longer than the system allows.", "Give a shorter one."
    if error.errno == errno.ELOOP:
        return f"The link{where} leads back to itself.", "Remove or mend it."
    if error.errno == errno.EMFILE:
        return "Too many files are open at once.", "Allow more: ulimit -n 4096"
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV):
        return (
            f"The system reports '{error.strerror}'{' for' + where if where else ''}.",
            "Look at the disk or network behind it.",
        )
    return None


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the same options, whose errors are told and which is quiet where that is asked for."""

    @functools.wraps(command)  # typer reads the options from the signature of what is wrapped
    def guarded(*, quiet: bool, **options: Any) -> None:
        if sys.platform == "darwin":
            # what Apple's GPUs cannot do is done on the CPU; PyTorch reads this when it is loaded, which is later
            os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        with _errors_told(quiet):
            command(quiet=quiet, **options)

    return guarded


def _show_version(wanted: bool) -> None:
    if wanted:
        from reincli import __version__

        typer.echo(f"rein {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    """Semantic segmentation that survives a change of domain."""


for _name, _file in COMMANDS.items():
    app.command(_name, epilog=examples(*_file.EXAMPLES))(_guarded(_file.command))
