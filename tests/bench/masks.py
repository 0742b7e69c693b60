"""From coarse logits to a stored mask and back at 1024x2048x19, one thread: ours beside torch, Pillow, zstd and COCO RLE.

python -m tests.bench.masks [rounds]    half a minute; pip install 'maskmill[bench]' for all the rows
"""

import importlib.util
import io
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.imaging.mask_png import decode_mask, encode_mask
from pipeline.labels import space
from pipeline.predict.upsample_argmax import enlarge_argmax
from pipeline.predict.upsample_confidence import enlarge_confidence
from pipeline.synthetic.street import draw_scene
from tests.bench.decode import SERIAL
from tests.bench.rows import Limit
from tests.bench.turns import compare

HEIGHT, WIDTH, CLASSES, STRIDE = 1024, 2048, 19, 8
Codec = tuple[Callable[[np.ndarray], object], Callable[[object], np.ndarray], Callable[[object], int]]


def scene_scores() -> torch.Tensor:
    """(1, C, h, w) logits like a trained network's: a drawn scene, softened and noisy, channels last."""
    _, stored = draw_scene(np.random.default_rng(0), HEIGHT, WIDTH)
    label = torch.from_numpy(space("cityscapes19").to_train(stored, "scene")).long()
    one_hot = F.one_hot(label.clamp(max=CLASSES - 1), CLASSES).permute(2, 0, 1)[None].float()
    small = F.interpolate(one_hot, (HEIGHT // STRIDE, WIDTH // STRIDE), mode="bilinear", antialias=True)
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    return (8 * small + 0.5 * noise).contiguous(memory_format=torch.channels_last)


def pillow(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return file.getvalue()


def rle_codec() -> Codec:
    """COCO's run lengths, one string a class: how annotation tools keep masks."""
    from pycocotools import mask as coco

    def encode(mask: np.ndarray) -> object:
        return coco.encode(np.asfortranarray(mask[..., None] == np.arange(CLASSES, dtype=np.uint8), dtype=np.uint8))

    def decode(runs: object) -> np.ndarray:
        return coco.decode(runs).argmax(-1).astype(np.uint8)

    return encode, decode, lambda runs: sum(len(one["counts"]) for one in runs)


def zstd_codec() -> Codec:
    import zstandard

    packer, unpacker = zstandard.ZstdCompressor(3), zstandard.ZstdDecompressor()
    return (
        lambda mask: packer.compress(mask),
        lambda data: np.frombuffer(unpacker.decompress(data), np.uint8).reshape(HEIGHT, WIDTH),
        len,
    )


def codecs() -> dict[str, Codec]:
    found: dict[str, Codec] = {
        "maskmill (PNG)": (encode_mask, decode_mask, len),
        "Pillow (PNG)": (pillow, lambda data: np.asarray(Image.open(io.BytesIO(data))), len),
    }
    if importlib.util.find_spec("zstandard"):
        found["raw + zstd"] = zstd_codec()
    if importlib.util.find_spec("pycocotools"):
        found["COCO RLE"] = rle_codec()
    return found


def moved(size: int, words: str) -> Limit:
    return Limit("bytes", size, words)


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    scores = scene_scores()

    def stock() -> np.ndarray:
        large = F.interpolate(scores, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        return large[0].argmax(0).to(torch.uint8).numpy()

    def ours() -> np.ndarray:
        return enlarge_argmax(scores[0].numpy(), (HEIGHT, WIDTH), (HEIGHT, WIDTH))

    mask = ours()
    same = f"{100 * float((mask == stock()).mean()):.4f} % of the labels equal"
    compare(
        f"coarse logits to labels, {HEIGHT}x{WIDTH}x{CLASSES}, stride {STRIDE}, one thread",
        {"maskmill": ours, "torch: interpolate + argmax": stock}, rounds, notes={"maskmill": same},
        row="coarse logits to labels", limit=moved(4 * scores.numel() + mask.size, "logits read, labels written"),
    )  # fmt: skip

    def stock_confidence() -> np.ndarray:
        large = F.interpolate(scores, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        return large[0].softmax(0).amax(0).mul(255).round().to(torch.uint8).numpy()

    def our_confidence() -> np.ndarray:
        return enlarge_confidence(scores[0].numpy(), (HEIGHT, WIDTH), (HEIGHT, WIDTH))

    sure = our_confidence()
    apart = np.abs(sure.astype(int) - stock_confidence()).max()
    told = f"at most {apart} of 255 apart; {len(encode_mask(sure))} bytes as PNG, the mask {len(encode_mask(mask))}"
    compare(
        f"coarse logits to confidence, {HEIGHT}x{WIDTH}x{CLASSES}, stride {STRIDE}, one thread",
        {"maskmill": our_confidence, "torch: interpolate + softmax + max": stock_confidence}, rounds, notes={"maskmill": told},
        row="coarse logits to confidence",
        limit=moved(4 * scores.numel() + mask.size, "logits read, levels written; the exponentials are not counted"),
    )  # fmt: skip
    found = codecs()
    stored = {name: encode(mask) for name, (encode, _, _) in found.items()}
    for name, (_, decode, _) in found.items():
        assert (decode(stored[name]) == mask).all(), name
    sizes = {name: f"{size(stored[name])} bytes" for name, (_, _, size) in found.items()}
    ways = {name: partial(encode, mask) for name, (encode, _, _) in found.items()}
    read_once = moved(mask.size + len(stored["maskmill (PNG)"]), "mask read, PNG written")  # type: ignore[arg-type]
    compare(f"mask to bytes, {HEIGHT}x{WIDTH}", ways, rounds, notes=sizes, row="mask to bytes", limit=read_once)
    back = {name: partial(decode, stored[name]) for name, (_, decode, _) in found.items()}
    compare(f"bytes to mask, {HEIGHT}x{WIDTH}", back, rounds, row="bytes to mask", limit=SERIAL)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
