"""Plant faults in the source code of the ledger; the state machine of test_ledger_machine.py must find each of them.

python -m pytest tests/ledger_faults.py    # not in the default tests: faults must be adapted when that code changes
"""

import inspect
import textwrap

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from pipeline.runs import Run, compaction, ledger
from tests.test_ledger_machine import FULL, Ledger

SUCCESS = "delete_success(self.uri)"
# What is wrong: the function, its text, the text instead of it.
FAULTS = {
    "commit overwrites an earlier answer": (Run, "commit", "first = storage.create(", "first = not storage.put("),
    "commit does not settle rejects": (Run, "commit", "if rejects.num_rows or not first:", "if False:"),
    "begin is always the first": (Run, "begin", "moment.encode())", "moment.encode()) or True"),
    "pending forgets a shard": (Run, "_without", "np.flatnonzero(~answered)", "np.flatnonzero(~answered)[:-1]"),
    "reopen leaves _SUCCESS": (Run, "reopen", SUCCESS, "pass"),
    "reopen leaves withdrawn rejects": (Run, "reopen", "if part.first in pending:", "if False:"),
    "finish does not settle rejects": (ledger, "write_success", "storage.put(storage.join(run_uri, name), data)", "pass"),
    "withdraw leaves _SUCCESS": (Run, "withdraw_rejects", SUCCESS, "pass"),
    "withdraw leaves rejects still unsaid": (Run, "withdraw_rejects", 'startswith("shard-")', 'startswith("?")'),
    "withdraw removes rejects first": (
        Run, "withdraw_rejects", '(replace(part, kind="masks").uri, part.uri)', '(part.uri, replace(part, kind="masks").uri)'
    ),
    "compact takes a run that lost its parts": (compaction, "_success", "source.finished() is not None", "True"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_machine_finds_a_planted_fault(fault, monkeypatch, record_property):
    owner, name, text, instead = FAULTS[fault]
    right = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(right))
    assert source.count(text) == 1, f"{name} reads otherwise now: plant this fault anew"
    exec(source.replace(text, instead), right.__globals__, made := {})
    monkeypatch.setattr(owner, name, made[name])
    machines = []

    def machine():
        machines.append(Ledger())
        return machines[-1]

    with pytest.raises(AssertionError) as found:
        run_state_machine_as_test(machine, settings=settings(FULL, max_examples=400))
    record_property("found", f"{len(machines)} runs, {sum(m.steps for m in machines)} steps: {found.value!r}")
