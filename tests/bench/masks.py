"""From coarse logits to a stored mask at 1024x2048x19, one thread: ours beside torch and Pillow, interleaved.

python -m tests.bench.masks    seconds
"""

import io
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.corpus.street import draw_scene
from pipeline.imaging.enlarge import enlarge_argmax
from pipeline.imaging.masks import encode_mask
from pipeline.labels import space

HEIGHT, WIDTH, CLASSES, STRIDE, REPEATS = 1024, 2048, 19, 8, 15


def scene_scores() -> torch.Tensor:
    """(1, C, h, w) logits like a trained network's: a drawn scene, softened and noisy, channels last."""
    _, stored = draw_scene(np.random.default_rng(0), HEIGHT, WIDTH)
    label = torch.from_numpy(space("cityscapes19").to_train(stored, "scene")).long()
    one_hot = F.one_hot(label.clamp(max=CLASSES - 1), CLASSES).permute(2, 0, 1)[None].float()
    small = F.interpolate(one_hot, (HEIGHT // STRIDE, WIDTH // STRIDE), mode="bilinear", antialias=True)
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    return (8 * small + 0.5 * noise).contiguous(memory_format=torch.channels_last)


def medians(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way, all run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(REPEATS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def pillow(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


def main() -> None:
    torch.set_num_threads(1)
    scores = scene_scores()

    def stock() -> np.ndarray:
        large = F.interpolate(scores, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        return large[0].argmax(0).to(torch.uint8).numpy()

    def ours() -> np.ndarray:
        return enlarge_argmax(scores[0].numpy(), (HEIGHT, WIDTH), (HEIGHT, WIDTH))

    mask = ours()
    same = float((mask == stock()).mean())
    enlarge = medians({"interpolate + argmax (torch)": stock, "enlarge_argmax": ours})
    png = medians({"PNG (Pillow)": lambda: pillow(mask), "PNG (encode_mask)": lambda: encode_mask(mask)})
    for title, found, note in (
        ("enlargement", enlarge, f"{100 * same:.4f} % of the labels equal"),
        ("mask to bytes", png, f"{len(pillow(mask))} and {len(encode_mask(mask))} bytes"),
    ):
        (stock_name, slow), (our_name, fast) = found.items()
        print(f"{title}: {stock_name} {1e3 * slow:.2f} ms, {our_name} {1e3 * fast:.2f} ms: {slow / fast:.1f}x; {note}")


if __name__ == "__main__":
    main()
