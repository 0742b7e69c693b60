"""Entry point and error handling of the `maskmill` command; the commands themselves are in pipeline/cli/commands.py.

Exit codes: 0 clean, 2 done with rejects, 1 failed, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import sys
import traceback
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from pipeline import interrupts
from pipeline.cli.printing import clean_streams
from pipeline.errors import Stopped, UserError

HEAVY = ("ray", "torch", "torchvision", "torchcodec", "safetensors")  # missing from the reader's install: infra/reader
NO_LOSS = "nothing that was there is lost, run the same command again"


@runtime_checkable
class Misuse(Protocol):
    """A usage error, as raised by click and by the copy of click that some versions of typer bundle."""

    exit_code: int

    def format_message(self) -> str: ...


def main() -> None:
    """Entry point: errors become one sentence and an exit code; `--debug` shows the traceback."""
    clean_streams()
    interrupts.listen()  # before all other imports: they already take long enough to be interrupted
    code = run(lambda: _command(sys.argv[1:]), debug="--debug" in sys.argv)
    interrupts.end()
    sys.exit(code)


def run(command: Callable[[], object], debug: bool) -> int:
    """Run a command, print its error if it has one, and return its exit code."""
    try:
        code = command()
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, Stopped)) or interrupts.pressed():
            print(f"stopped: {error if isinstance(error, Stopped) else NO_LOSS}", file=sys.stderr)
            return interrupts.exit_code()
        if not isinstance(error, Exception):
            raise
        if debug and not isinstance(error, Misuse):
            raise
        return _explain(error)
    if code == 130 and interrupts.pressed():  # typer turns a KeyboardInterrupt into it
        print(f"stopped: {NO_LOSS}", file=sys.stderr)
        return interrupts.exit_code()
    return code if isinstance(code, int) else 0


def _command(words: list[str]) -> object:
    from pipeline.cli import cli_output
    from pipeline.cli.commands import app
    from pipeline.storage import retry

    retry.start()
    arguments, switches = cli_output.take_switches(words)
    cli_output.set_verbosity(switches)
    return app(arguments, prog_name="maskmill", standalone_mode=False)


def _explain(error: Exception) -> int:
    """Print one sentence for an error that the user can fix, and a traceback for a bug; return the exit code."""
    from pipeline.storage import retry

    error = _origin(error)
    if isinstance(error, Misuse):
        where = getattr(getattr(error, "ctx", None), "command_path", "maskmill")
        words = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
        if "unexpected extra argument" in words and "--set" in sys.argv:
            words += "; --set takes KEY.PATH=VALUE, with = and no space"
        print(f"error: {words} (see {where} --help)", file=sys.stderr)
    elif isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError) and (package := missing_package(error)):
        print(
            f"error: this command needs {package}, which is not installed here (maskmill-reader alone only reads runs); run: "
            "pip install maskmill",
            file=sys.stderr,
        )
    elif isinstance(error, OSError):
        print(f"error: {retry.sentence(error)}", file=sys.stderr)
    elif isinstance(error, MemoryError):
        print("error: this machine's memory is full; run the command where there is more, or on less", file=sys.stderr)
    elif type(error).__module__ == "ray.exceptions":  # of Ray itself: `_origin` has unwrapped those of our code
        words = (str(error).strip().splitlines() or ["no message"])[-1]
        print(
            f"error: lost the cluster or one of its machines ({type(error).__name__}: {words}); run the same command again",
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
        print(
            f"error: {type(error).__name__} above is a bug of maskmill, not of your input; please report it in the "
            "project's issue tracker, with these lines and the command",
            file=sys.stderr,
        )
    return 1


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return the package that was not found, if it is one that only training, segmentation and clusters need."""
    name = (error.name or "").partition(".")[0]
    return name if name in HEAVY else None


def _origin(error: Exception) -> Exception:
    """Return the exception that another process raised, without Ray's exceptions around it."""
    while isinstance(inner := getattr(error, "cause", None), Exception):
        error = inner
    return error
