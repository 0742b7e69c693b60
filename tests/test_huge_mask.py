"""An image with more pixels than Pillow decodes by default is segmented, verified, read back, exported and shown."""

import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import labels
from pipeline.analysis import export, open_run, write_report
from pipeline.analysis.report.gallery import cards
from pipeline.config import SegmentConfig, parse, parse_model
from pipeline.corpus import list_items, plan_shards
from pipeline.errors import UserError
from pipeline.imaging.decode import open_of_any_size
from pipeline.imaging.mask_png import decode_mask, encode_mask
from pipeline.models.checkpoint import Checkpoint
from pipeline.runs import REJECT_SCHEMA, Run, mask_schema, verify
from pipeline.segment.shard import ShardSegmenter
from tests.bench.huge import Brightness, draw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # of the network, on a busy machine
HEIGHT, WIDTH = 14_000, 13_000
SPACE = labels.space("camvid11")


def segmented(cfg, items):
    """The answer of an actor, tile by tile: minutes on one core."""
    ready = Checkpoint(Brightness(), parse_model({"name": "unet"}, where="test"), SPACE, "", {})
    return ShardSegmenter(ready, cfg).answer(items)


def drawn(cfg, items):
    """The same mask, drawn."""
    path = Path(cfg.output).parent / "mask.png"
    draw(path, HEIGHT, WIDTH, (0, 1))
    row = {"image_id": "val/s_1", "uri": items[0].image.uri, "height": HEIGHT, "width": WIDTH,
           "mask": {"bytes": path.read_bytes(), "path": "val/s_1.png"},
           "pixels": [HEIGHT * WIDTH // 2] * 2 + [0] * 9}  # fmt: skip
    return pa.Table.from_pylist([row], mask_schema(11)), pa.Table.from_pylist([], REJECT_SCHEMA)


@pytest.fixture(params=[drawn, pytest.param(segmented, marks=pytest.mark.chaos)], ids=["drawn", "segmented"])
def huge(request, tmp_path):
    """URI of a finished run over one picture, half dark and half bright."""
    draw(tmp_path / "corpus/images/val/s_1.png", HEIGHT, WIDTH, (40, 220))
    cfg = parse(
        SegmentConfig,
        {"corpus": {"images": str(tmp_path / "corpus"), "layout": "camvid"}, "checkpoint": str(tmp_path),
         "output": str(tmp_path / "run"), "max_pixels": 10**9, "stream_above_pixels": 10**6,
         "predict": {"tile": [1024, 1024], "overlap": 8}, "max_reject_rate": 0, "actors": 1, "cpus_per_actor": 1},
        where="test",
    )  # fmt: skip
    items = list_items(cfg.corpus, None)
    run = Run.open_or_create(cfg.output, {}, cfg.model_dump(mode="json"), SPACE, lambda: plan_shards(items, 1))
    run.commit(0, *request.param(cfg, items))
    assert run.finish(0).rows == 1
    return cfg.output


@pytest.mark.scorecard("input", 52)
def test_a_mask_over_pillows_limit_is_proved_read_exported_and_shown(huge, tmp_path):
    assert HEIGHT * WIDTH > 2 * Image.MAX_IMAGE_PIXELS
    assert verify(huge).problems == []
    view = open_run(huge)
    (mask,) = view.masks(["val/s_1"]).values()
    assert mask.shape == (HEIGHT, WIDTH)
    assert not mask[:, : WIDTH // 2].any() and (mask[:, WIDTH // 2 :] == 1).all()
    del mask
    export(view, "png", str(tmp_path / "png"))
    exported = open_of_any_size((tmp_path / "png/val/s_1.png").read_bytes(), ("PNG",))
    assert exported.size == (WIDTH, HEIGHT)
    assert exported.crop((0, 9, WIDTH, 10)).resize((2, 1)).tobytes() == bytes([0, 1])
    rle = export(view, "coco-rle", str(tmp_path / "rle")).uri
    assert [one["area"] for one in json.loads(Path(rle).read_text())["annotations"]] == [HEIGHT * WIDTH // 2] * 2
    (card,) = cards(view, ["val/s_1"])  # of the report, which shows labelled images
    assert card["missing"] is None and card["base"] and list(card["layers"]) == ["prediction"]
    assert Path(write_report(huge, 1, None)).exists()


def test_a_mask_that_promises_more_pixels_than_its_bytes_hold_is_not_allocated():
    honest = bytearray(encode_mask(np.zeros((20, 30), np.uint8)))
    honest[16:24] = (1 << 20).to_bytes(4, "big") * 2
    honest[29:33] = zlib.crc32(honest[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"promises 1048576x1048576 pixels in \d+ bytes"):
        decode_mask(bytes(honest))
    with pytest.raises(UserError, match="cannot be decoded"):
        decode_mask(encode_mask(np.eye(20, dtype=np.uint8))[:60])
    solid = np.zeros((5000, 5000), np.uint8)
    assert (decode_mask(encode_mask(solid)) == solid).all()
