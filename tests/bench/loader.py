"""Training input: views a second of our loader beside a torch DataLoader's, two threads against two processes.

python -m tests.bench.loader [rounds]    two minutes on 2 cores

The corpus is PNGs of 1024x2048 as files, the views crops of 512x1024. The DataLoader runs once over our own reading and
augmentation (what differs is then threads or processes) and once over what torchvision's users write: Pillow and transforms.v2.
"""

import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline import labels
from pipeline.config import AugmentConfig, CorpusConfig
from pipeline.corpus import Item, list_items
from pipeline.corpus.samples import load_pair
from pipeline.imaging.augment import augment
from pipeline.synthetic.scenes import write_corpus
from pipeline.train.data import epoch_batches
from tests.bench.turns import compare

SCENES, HEIGHT, WIDTH, CROP, BATCH, WORKERS, MAX_PIXELS = 16, 1024, 2048, (512, 1024), 4, 2, 50_000_000
AUGMENT = AugmentConfig(crop=CROP, scale=(0.5, 2.0), flip=True, colour=0.3)
SPACE = labels.space("cityscapes19")


class Ours(Dataset):
    """Our reading and augmentation in the DataLoader's processes."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return augment(*load_pair(self.items[index], SPACE, MAX_PIXELS), AUGMENT, np.random.default_rng(index), None)


class Stock(Ours):
    """Pillow and torchvision's transforms, as its reference training does."""

    def __init__(self, items: list[Item]) -> None:
        super().__init__(items)
        self.transform = v2.Compose([
            v2.RandomResize(HEIGHT // 2, HEIGHT * 2), v2.RandomHorizontalFlip(),
            v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Mask: 255, "others": 0}),
            v2.ColorJitter(0.3, 0.3, 0.3),
        ])  # fmt: skip

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.items[index]
        image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(item.image.uri).convert("RGB")))
        stored = np.asarray(Image.open(item.label.uri))
        label = tv_tensors.Mask(torch.from_numpy(SPACE.to_train(stored, item.image_id)))
        return self.transform(image, label)


def epoch(data: Dataset) -> Callable[[], int]:
    def run() -> int:
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
        return sum(len(images) for images, _ in loader)

    return run


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images, truths = write_corpus(folder, {"train": SCENES}, HEIGHT, WIDTH, seed=7, packed=False)
        items = list_items(CorpusConfig(images=images, labels=truths, layout="cityscapes"), "train")

        def ours() -> int:
            batches = epoch_batches(
                items, SPACE, AUGMENT, batch_size=BATCH, epoch=0, seed=0, rank=0, world_size=1, max_pixels=MAX_PIXELS,
                num_threads=WORKERS,
            )  # fmt: skip
            return sum(len(images) for images, _ in batches)

        ways = {
            "maskmill": ours,
            "DataLoader over our views": epoch(Ours(items)),
            "DataLoader, Pillow + transforms.v2": epoch(Stock(items)),
        }
        title = (
            f"training input, crops of {CROP[0]}x{CROP[1]} from PNGs of {HEIGHT}x{WIDTH}, ms a view, {WORKERS} workers"
        )
        why = "nearly all of it is decoding PNGs, which neither memory nor arithmetic bounds"
        each = SCENES // BATCH * BATCH
        compare(title, ways, rounds, 60, each=each, row="a training view, crop of a PNG", limit=why)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
