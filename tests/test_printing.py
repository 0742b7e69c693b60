"""Control characters in data never reach a terminal raw, neither from real commands nor from what rich draws."""

import os
import subprocess
import sys

from pipeline.cli.printing import clean
from tests.command import maskmill

HOSTILE = b"\x89\x1b[31m\xff\x00\x9b31m\x1b]0;title\x07GARBAGE"
OBEYED = {*range(32), *range(0x7F, 0xA0)} - {9, 10}


def assert_inert(text):
    assert not OBEYED & set(map(ord, text)), ascii(text)


def test_codes_become_escapes_and_text_stays():
    assert clean("grün\t100 %\n") == "grün\t100 %\n"
    assert clean("\x1b[2J\x9b\r\udcff\u202e") == r"\x1b[2J\x9b\r\udcff\u202e"


def test_check_shows_a_broken_file_and_its_name_inertly(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a\x1b[32m\x9bb.png").write_bytes(HOSTILE)
    done = maskmill("check", str(tmp_path), "--layout", "pairs", "--images-glob", "images/*.png")
    assert done.returncode == 2, done.stderr
    assert_inert(done.stdout + done.stderr)
    assert r"a\x1b[32m\x9bb: no PNG" in done.stdout


def test_errors_and_tracebacks_are_inert(tmp_path):
    weights = tmp_path / "a\x1b[31m.pth"
    weights.write_bytes(HOSTILE)
    done = maskmill("import-weights", str(weights), "--model", "fcn", "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert_inert(done.stderr)
    assert r"a\x1b[31m.pth: not a file of tensors alone" in done.stderr
    planted = "from pipeline.corpus import check\ncheck.guess_corpus = lambda *words: {}['\\x1b[31m\\udcff']\n"
    command = [sys.executable, "-c", planted + "from pipeline.cli import main; main()", "check", "\x1b[32m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" in done.stderr and "a bug of maskmill" in done.stderr
    assert_inert(done.stderr)


def test_what_an_ascii_terminal_lacks_is_escaped():
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "check", "/tmp/nowhere-ü"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert r"error: corpus /tmp/nowhere-\xfc: there is no file" in done.stderr


def test_rich_keeps_its_own_codes_and_shows_those_it_is_given():
    script = """
from rich.table import Table
import pipeline.cli.console as c
from rich.console import Console
console = Console(force_terminal=True, width=60, highlight=False, markup=False)
console.push_render_hook(c._CleanedAll())
table = Table("name", header_style="bold")
table.add_row("row\\x1b[2J")
console.print(table)
console.print("plain \\x1b[2J", style="red")
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    assert r"row\x1b[2J" in told and r"plain \x1b[2J" in told
    assert "\x1b[1m" in told and "\x1b[31m" in told and "\x1b[2J" not in told


def test_the_list_of_models_has_every_family_and_warns_of_nothing():
    done = maskmill("models")
    assert (done.returncode, done.stderr) == (0, "")
    assert not {"alexnet", "mobilenet_v3_large", "efficientnet_lite0", "hourglass"} - set(done.stdout.split())
