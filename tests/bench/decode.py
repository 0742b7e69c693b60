"""Bytes of a 1024x2048 picture to RGB pixels on one thread: ours beside Pillow, torchvision, torchcodec and pyvips.

python -m tests.bench.decode [rounds]    half a minute; pip install 'maskmill[bench]' for all the rows

Of the decoders compared here, only ours and Pillow refuse a truncated file; the last column says what each makes of one.
"""

import importlib.util
import io
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image

from pipeline.imaging.decode import decode_image
from pipeline.synthetic.street import draw_scene
from tests.bench.turns import compare

HEIGHT, WIDTH, MAX_PIXELS = 1024, 2048, 50_000_000
Decode = Callable[[bytes], object]
SERIAL = "the format is read bit by bit, each place known from the one before: neither memory nor arithmetic bounds it"


def pictures() -> dict[str, bytes]:
    """The same drawn street in the two formats of most archives."""
    image = Image.fromarray(draw_scene(np.random.default_rng(0), HEIGHT, WIDTH)[0])
    found = {}
    for name, options in {"PNG": {"compress_level": 6}, "JPEG": {"quality": 90}}.items():
        file = io.BytesIO()
        image.save(file, name, **options)
        found[name] = file.getvalue()
    return found


def torchvision_decode(data: bytes) -> object:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def torchcodec_decode(data: bytes) -> object:
    from torchcodec.decoders import decode_image

    return decode_image(data, mode="RGB")


def pyvips_decode(data: bytes) -> object:
    import pyvips

    return pyvips.Image.new_from_buffer(data, "").numpy()


def decoders() -> dict[str, Decode]:
    ways: dict[str, Decode] = {
        "maskmill": lambda data: decode_image(data, MAX_PIXELS),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "torchvision": torchvision_decode,
    }
    if importlib.util.find_spec("torchcodec"):
        ways["torchcodec"] = torchcodec_decode
    if importlib.util.find_spec("pyvips"):
        ways["pyvips"] = pyvips_decode
    return ways


def of_a_cut_file(decode: Decode, data: bytes) -> str:
    try:
        decode(data[: len(data) // 2])
    except Exception as error:
        return f"half a file: {type(error).__name__}"
    return "half a file: a picture"


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    for name, data in pictures().items():
        ways = {title: partial(decode, data) for title, decode in decoders().items()}
        notes = {title: of_a_cut_file(decode, data) for title, decode in decoders().items()}
        title = f"decode, {name} of {HEIGHT}x{WIDTH}, {len(data) / 1e6:.1f} MB, one thread"
        compare(title, ways, rounds, notes=notes, row=f"decode a {name} of {HEIGHT}x{WIDTH}", limit=SERIAL)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
