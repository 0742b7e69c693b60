"""Train a network from one YAML, as `maskmill train` does; entry point of a Ray job.

ray job submit --working-dir . -- python -m jobs.train configs/camvid/train_deeplab_v3plus.yaml
"""

from jobs.arguments import main
from pipeline.cli.training import run_training
from pipeline.config import TrainConfig

if __name__ == "__main__":
    main(__doc__, TrainConfig, run_training)
