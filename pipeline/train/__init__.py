"""Ray Train: a labelled corpus in, a checkpoint out. Files are imported by name: few of them need Ray.

driver.py       one call: check, claim the output, one Ray trainer a stage, what a failure means
loop.py         one worker, from the first step to the last
data.py         items -> batches, augmented ahead of the model in an order fixed by the seed
learner.py      network, optimizer, loss: what one step does
recipe/         what a learner is made of: losses, class weights, optimizer, schedule, averaged weights
parallel.py     how the workers' networks are kept equal: DDP or FSDP
validate.py     counts of the validation split
state.py        how far a run is: what is saved and restored; snapshots.py: how snapshots are stored
run_folder.py   config, environment, label counts: what lies beside the checkpoints
metrics_log.py  metrics.jsonl; curves.py: learning curves as a picture; tensorboard.py, mlflow.py: the same elsewhere
failures.py     what to say about NaN, memory that is full, workers that are lost
telemetry.py    metrics that Ray exports
tune.py         Ray Tune over any key of the config

<output>/config.json       the resolved config
<output>/environment.json  of each start: versions of the packages, commit of the code, machine
<output>/metrics.jsonl     the loss of every step, one record a few steps, one a validation
<output>/best, last        checkpoints: the best validation, and the newest
<output>/snapshots         what a restarted run continues from
<output>/_SUCCESS.json     written last: the run has nothing left to do
<output>/stage-N/...       the same of each stage, where the config has `stages`
"""
