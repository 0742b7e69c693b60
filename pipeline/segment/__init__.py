"""A corpus in, one mask row or reject row an image out. Files are imported by name: few of them need Ray.

driver.py           one call: check, open the run, shards to actors, progress, what a failure means
on_ray.py           those actors, on a cluster or on this machine, fed by Ray Data
local_workers.py    processes of this machine in their place, for small runs, which would wait longest for Ray
local_worker.py     one of them
actor.py            one worker: shard after shard, resumed or begun, answered and committed; decoding tasks
checkpoints.py      what a run predicts with: a checkpoint, or an ensemble of them
loading.py          one image of the plan: read, decoded and checked beside its label, or rejected
shard.py            a shard through the model: read ahead of it, encoded behind it
engine.py           what computes the network: given, recorded, or chosen on the first images
streamed.py         an image too large to be decoded whole, row by row
rows.py             what an answered or a rejected image becomes in the tables
packed.py           decoded images as one Arrow row, where other nodes decode
core_turns.py       the cores of an actor, shared by the model and the threads around it
crash_isolation.py  images that raise errors or kill their process, found by bisection
failures.py         what ends a run: a sentence, or a bug with its traceback
progress.py         how far the run is, as its driver sees it
shard_progress.py   how far an actor is within a shard
telemetry.py        metrics that Ray exports
estimate.py         memory, time and machines of a run before it is started: its rates, measured or given
sizing.py           what follows from a number of images and rates: time, requests, cost, warnings
crf_search.py       which CRF settings are tried, and what the best are worth on images that the search did not see
tune_crf.py         that search as Ray tasks
calibrate.py        the temperature that makes confidences agree with accuracy
"""
