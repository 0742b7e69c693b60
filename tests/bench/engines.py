"""Engines compared with torch. `python -m tests.bench.engines [--networks ...] [--engines ...] [--divide 2] [--threads 1] ...`.

Each network and engine in a process of its own, on synthetic street scenes: CPU seconds of a forward pass and of a whole
prediction (normalised, enlarged, argmax), start-up until the first mask, the largest resident memory, labels equal to torch's.
Weights are random, or after `--train` steps on such scenes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import labels
from pipeline.cluster.worker_env import take_cores
from pipeline.config import PredictConfig
from pipeline.models import Network
from pipeline.predict import Predictor
from pipeline.predict.engines import PACKAGES, build_engine
from pipeline.predict.tile import Tile
from pipeline.synthetic.street import draw_scene
from tests.bench.flops import operations
from tests.bench.rows import Limit, record
from tests.varied_network import varied_network

NETWORKS = {
    "lraspp-mobilenetv3": ({"name": "lraspp"}, (1024, 2048)),
    "deeplabv3plus-efficientnet_lite0": ({"name": "deeplabv3plus", "backbone": "efficientnet_lite0"}, (512, 1024)),
    "fcn-resnet50": ({"name": "fcn_resnet", "backbone": "resnet50"}, (256, 512)),
}
MORE = {  # asked for by name
    "segnet": ({"name": "segnet"}, (256, 512)),
    "deeplabv3-resnet50": ({"name": "deeplabv3", "backbone": "resnet50"}, (256, 512)),
}
NUM_CLASSES = 19
CROP, BATCH = (96, 192), 4  # of training


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def train(network: Network, steps: int) -> float:
    """Train on synthetic scenes, one new scene an image; the mean loss of the last ten steps."""
    space, rng = labels.space("cityscapes19"), np.random.default_rng(1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    losses = []
    network.place(torch.device("cpu")).train()
    for _ in range(steps):
        scenes = [draw_scene(rng, *CROP) for _ in range(BATCH)]
        x = network.normalise(torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2))
        label = torch.from_numpy(np.stack([space.to_train(label, "scene") for _, label in scenes])).long()
        loss = F.cross_entropy(network(x)[-1], label, ignore_index=labels.IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    network.eval()
    return float(np.mean(losses[-10:]))


def one(name: str, engine_name: str, args: argparse.Namespace) -> None:
    """Print the figures of one network with one engine; its masks go to `--masks`."""
    section, size = (NETWORKS | MORE)[name]
    height, width = (side // args.divide for side in size)
    take_cores(args.threads)
    rng = np.random.default_rng(0)
    images = [draw_scene(rng, height, width)[0] for _ in range(args.images)]
    network = varied_network(section, NUM_CLASSES, images[0][:256, :512])
    if args.weights:
        network.load_state_dict(torch.load(args.weights))
    started = time.perf_counter()
    engine = build_engine(engine_name, network, args.threads)
    predictor = Predictor(network, PredictConfig(), num_threads=args.threads, engine=engine)
    masks = [predictor.masks([images[0]])[0].mask]
    start_s, each = time.perf_counter() - started, []
    for image in images[1:]:
        before = cpu_s()
        masks.append(predictor.masks([image])[0].mask)
        each.append(cpu_s() - before)
    x, before = predictor._input([Tile.of(images[0])], 1.0, mirrored=False), cpu_s()
    with torch.inference_mode():
        for _ in images[1:]:
            engine.coarse(x) if network.enlarges else engine.logits(x)
    forward_s = (cpu_s() - before) / (len(images) - 1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    np.save(args.masks, np.stack(masks))
    count = operations(network, torch.zeros(x.shape))
    print(json.dumps({"forward": forward_s, "each": each, "start": start_s, "memory": memory, "operations": count}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=[*NETWORKS, *MORE])
    parser.add_argument("--engines", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--divide", type=int, default=1, help="height and width of the images by it")
    parser.add_argument("--images", type=int, default=6, help="the first of them is not timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", type=int, default=0, help="steps on scenes of 96x192 before; 0: random weights")
    parser.add_argument("--masks", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.masks:
        one(args.networks[0], args.engines[0], args)
        return
    print("| network | engine | forward, CPU s | x torch | image, CPU s | x torch | start, s | GB | labels equal, % |")
    print("| --- " * 9 + "|")
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            weights = trained(name, args, Path(folder)) if args.train else None
            table(name, args, weights)


def trained(name: str, args: argparse.Namespace, folder: Path) -> Path:
    """A file of a network's weights after `--train` steps."""
    take_cores(args.threads)
    section, _ = (NETWORKS | MORE)[name]
    network = varied_network(section, NUM_CLASSES, draw_scene(np.random.default_rng(0), 128, 256)[0])
    loss = train(network, args.train)
    print(f"{name}: cross entropy {loss:.3f} after {args.train} steps", file=sys.stderr, flush=True)
    torch.save(network.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def table(name: str, args: argparse.Namespace, weights: Path | None) -> None:
    """A line for each engine, torch first."""
    expected, torch_s, kept = None, (0.0, 0.0), list[float]()
    for engine in dict.fromkeys(["torch", *args.engines]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "masks.npy"
            command = [sys.executable, "-m", "tests.bench.engines", "--networks", name, "--engines", engine]
            options = [f"--{key}={getattr(args, key)}" for key in ("divide", "images", "threads")]
            options += [f"--masks={path}", *([f"--weights={weights}"] if weights else [])]
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"| {name} | {engine} | {done.stderr.strip().splitlines()[-1]} |", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            masks = np.load(path)
        forward, whole = found["forward"], float(np.mean(found["each"]))
        expected = masks if expected is None else expected
        if engine == "torch":
            torch_s, kept = (forward, whole), found["each"]
        else:
            words = "products and sums of direct convolutions, from torch's counter"
            limit = Limit("flops", found["operations"], words, args.threads)
            record(f"one prediction, {name}, {engine}", "s cpu", found["each"], {"torch": kept}, limit)
        equal = 100 * float((masks == expected).mean())
        print(
            f"| {name} | {engine} | {forward:.3f} | {torch_s[0] / forward:.2f} | {whole:.3f} | {torch_s[1] / whole:.2f} | "
            f"{found['start']:.1f} | {found['memory']:.2f} | {equal:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
