"""Training with Ray Train, from a labelled corpus to a checkpoint. Modules are imported by name, since few of them need Ray.

driver.py       a whole run: checks, claiming the output, one Ray trainer per stage, explaining failures
loop.py         one worker, from the first step to the last
data.py         items -> batches, augmented ahead of the model in an order fixed by the seed
learner.py      network, optimizer and loss of a worker, and one training step
recipe/         parts of a learner: losses, class weights, optimizer, schedule, averaged weights
parallel.py     synchronising the workers' networks: DDP or FSDP
validate.py     confusion counts of the validation split
state.py        saving and restoring the progress of a run; snapshots.py: storage of snapshots
run_folder.py   files beside the checkpoints: config, environment, label counts
metrics_log.py  metrics.jsonl; curves.py: learning curves as a picture; tensorboard.py, mlflow.py: the same for these programs
failures.py     messages about NaN, full memory and lost workers
telemetry.py    metrics that Ray exports
tune.py         Ray Tune over any key of the config

<output>/config.json       the resolved config
<output>/images.json       number and hash of the labelled images of both splits
<output>/environment.json  for each start: versions of the packages, commit of the code, machine
<output>/metrics.jsonl     the loss of every step; one record for every few steps, and one per validation
<output>/best, last        checkpoints of the best and of the newest validation
<output>/snapshots         the states from which an interrupted run continues
<output>/_SUCCESS.json     written last, when the run is complete
<output>/stage-N/...       the same files for each stage, if the config has `stages`
"""
