"""Segment a corpus: one mask row or one reject row per image. Import files by name: few of them need Ray.

driver.py           one call: checks the config, opens the run, hands shards to workers, reports progress and failures
on_ray.py           workers as Ray actors, on a cluster or on this machine, fed by Ray Data
local_workers.py    workers as processes of this machine, for small runs, where Ray's start would take longest
local_worker.py     the program of such a process
actor.py            one worker: answers shard after shard and commits each; decoding tasks
checkpoints.py      the networks of a run: a checkpoint, or an ensemble of them
loading.py          one image of the plan: read, decoded and checked with its label, or rejected
shard.py            runs a shard through the model; reads ahead of it, encodes after it
engine.py           chooses the engine of a run: from its config, its record, or trials on the first images
streamed.py         an image too large to be decoded whole, row by row
rows.py             table rows of answered and rejected images
packed.py           decoded images as one Arrow row, for decoding on other nodes
core_turns.py       shares the cores of an actor between the model and the threads around it
crash_isolation.py  finds images that raise errors or kill their process, by bisection
failures.py         errors that end a run: a message for the user, or a bug with its traceback
progress.py         progress of a run, as its driver sees it
shard_progress.py   progress of an actor within a shard
telemetry.py        metrics that Ray exports
estimate.py         memory, time and machines of a run before it is started, from measured or given rates
sizing.py           time, requests, cost and warnings, from a number of images and rates
crf_search.py       searches CRF settings, and judges the best on images that the search did not see
tune_crf.py         that search as Ray tasks
calibrate.py        fits the temperature that makes confidences agree with accuracy
"""
