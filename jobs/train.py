"""Train a network from one YAML; what `maskmill train` does, as a Ray job's entry point.

ray job submit --working-dir . -- python -m jobs.train configs/camvid/train_deeplab_v3plus.yaml
"""

from jobs.arguments import read
from pipeline.cli.console import console, training
from pipeline.config import TrainConfig, load
from pipeline.train import train

if __name__ == "__main__":
    arguments = read(__doc__)
    cfg = load(TrainConfig, arguments.config, arguments.overrides)
    if not arguments.check:
        with training("training") as on_record:
            trained = train(cfg, on_record)
        console.print(f"best mIoU {100 * trained.miou:.2f} after epoch {trained.best_epoch}: {trained.checkpoint}")
