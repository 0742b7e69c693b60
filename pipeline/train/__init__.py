"""Ray Train: a labelled corpus in, a checkpoint out.

driver.py      one call: check, claim the output, one Ray trainer a stage, what a failure means
loop.py        one worker, from the first step to the last
learner.py     network, optimiser, loss: what one step does
parallel.py    how the workers' networks are kept one
state.py       snapshots and checkpoints of a run, and how one goes on
validate.py    counts of the validation split
faults.py      what to say about NaN and about memory that is full
folder.py      config, environment, label counts: what lies beside the checkpoints
board.py       TensorBoard; curves.py: learning curves as a picture; tracking.py: MLflow

<output>/config.json       the resolved config
<output>/environment.json  of each start: versions of the packages, commit of the code, machine
<output>/metrics.jsonl     the loss of every step, one record a few steps, one a validation
<output>/best, last        checkpoints: the best validation, and the newest
<output>/snapshots         what a restarted run continues from
<output>/_SUCCESS.json     written last: the run has nothing left to do
<output>/stage-N/...       the same of each stage, where the config has `stages`
"""

from pipeline.train.driver import Trained, train

__all__ = ["Trained", "train"]
