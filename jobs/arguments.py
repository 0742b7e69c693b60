"""Command line of every job: one YAML, overrides, and --check, which stops after reading the config."""

import argparse
import sys
from collections.abc import Callable
from typing import TypeVar

from pipeline import interrupts
from pipeline.cli import run
from pipeline.config import Section, load
from pipeline.storage import retry

Config = TypeVar("Config", bound=Section)


def main(description: str | None, schema: type[Config], work: Callable[[Config], int | None]) -> None:
    """Read a job's command line and config, do the work, and exit with the code that it returns."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, complete: one file is one run")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--check", action="store_true", help="read the config and stop")
    arguments = parser.parse_args()
    interrupts.listen()  # SIGTERM gives the run's lease back, as in the `maskmill` command
    code = run(lambda: _do(arguments, schema, work), debug=False)
    interrupts.end()
    sys.exit(code)


def _do(arguments: argparse.Namespace, schema: type[Config], work: Callable[[Config], int | None]) -> int | None:
    retry.start()
    cfg = load(schema, arguments.config, arguments.overrides)
    return None if arguments.check else work(cfg)
