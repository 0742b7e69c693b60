"""Run `maskmill` as a user does: in a process of its own, with its output captured in files.

A short command spends most of its time on imports, so `maskmill` forks each command from one process that has done them;
`tests/test_cli.py` compares that with a process started from scratch.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

LIMIT_S = 120
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["torch", "pyarrow.fs", "dask.dataframe", "pipeline.cli.commands", "pipeline.cli.console", "pipeline.cli.run_tables",
     "pipeline.cli.tables", "pipeline.config.describe", "pipeline.models.listing", "pipeline.analysis"]
)  # fmt: skip


def maskmill(*arguments: str, debug: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; TimeoutExpired after `LIMIT_S`."""
    told = [*(["--debug"] if debug else []), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _server.Process(target=_command, args=(told, str(Path.cwd()), dict(os.environ), *map(str, files)))
        process.start()
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(told, LIMIT_S)
        return subprocess.CompletedProcess(told, process.exitcode, *(file.read_text() for file in files))


def maskmill_from_nothing(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in a new interpreter."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)


def _command(arguments: list[str], folder: str, environment: Mapping[str, str], stdout: str, stderr: str) -> None:
    for number, name in ((1, stdout), (2, stderr)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the server of the forks ignores
    sys.argv = ["-c", *arguments]
    from pipeline.cli import main

    try:
        main()
    except Exception:  # as an interpreter tells it
        traceback.print_exc()
        sys.exit(1)
