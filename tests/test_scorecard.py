"""Every row of the scorecard has a test, and the printed scorecard shows its result."""

import subprocess
import sys

import pytest

from tests.scorecard import ROWS


@pytest.mark.slow
def test_every_row_has_a_test_and_every_mark_a_row():
    """Collected in a process of its own: a collection inside a test would change this one's."""
    code = (
        "import pytest; from tests.scorecard import Scorecard; card = Scorecard();"
        "assert pytest.main(['-q', '-m', '', '--collect-only', '-p', 'no:cacheprovider'], plugins=[card]) == 0;"
        "print('MISSING', [key for key, row in card.rows.items() if not row.tests])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.stdout.endswith("MISSING []\n"), done.stdout[-3000:] + done.stderr[-3000:]


PLANTED = """
import pytest

@pytest.mark.scorecard("fault", 1)
def test_good(): pass

@pytest.mark.scorecard("fault", 2, 3)
@pytest.mark.parametrize("seed", [0, 1])
def test_bad(seed): assert seed == 0

@pytest.mark.scorecard("security", 1)
def test_skipped(): pytest.skip("no chromium")

def test_other(): raise AssertionError("it has no mark and must not run")
"""


def test_a_failure_a_skip_and_a_missing_row_are_told(tmp_path):
    (tmp_path / "test_planted.py").write_text(PLANTED)
    code = (
        "import sys, pytest; from tests.scorecard import Scorecard; card = Scorecard();"
        f"where = {str(tmp_path)!r};"
        "pytest.main(['-q', '-m', '', '-p', 'no:cacheprovider', '--rootdir', where, where], plugins=[card]);"
        "print(card.text()); print([card.rows['fault', n].broken for n in (1, 2, 3, 4)], card.rows['security', 1].green)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    lines = {" ".join(line.split()[:2]): line for line in done.stdout.splitlines() if line.strip()}
    assert lines["fault 1"].endswith("passed")
    assert "FAILED" in lines["fault 2"] and "FAILED" in lines["fault 3"] and " 2 " in lines["fault 2"]
    assert "MISSING" in lines["fault 4"]
    assert lines["security 1"].endswith("not run: no chromium")
    assert f"faults 1/{len(ROWS['fault'])}" in done.stdout and f"security 0/{len(ROWS['security'])}" in done.stdout
    assert "[False, True, True, True] False" in done.stdout
    assert "it has no mark" not in done.stdout
