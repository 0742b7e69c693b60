"""Ways in which a run may use its checkpoints: another output stride, and the mean over several of them."""

import io
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import labels, models
from pipeline.cluster.submit import prepare
from pipeline.config import ImageConfig, PredictConfig, SegmentConfig, parse, parse_model
from pipeline.corpus import list_items, plan_shards
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.output_stride import with_output_stride
from pipeline.predict import Predictor
from pipeline.runs import Run, verify
from pipeline.runs.info import describe, fingerprint_of
from pipeline.segment.actor import Segmenter
from pipeline.segment.checkpoints import load_checkpoints
from pipeline.segment.driver import identity, segment
from pipeline.segment.shard import ShardSegmenter
from pipeline.synthetic.scenes import write_corpus
from tests.chaos.nodes import children, title
from tests.test_actor import rows

IMAGES = 6
DEEPLAB = {"name": "deeplabv3plus", "backbone": "efficientnet_lite0", "aspp_channels": 16, "low_level_channels": 8,
           "decoder_channels": 16}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("corpus"))
    write_corpus(folder, {"val": IMAGES}, 32, 64, seed=1, packed=False)
    return folder


def saved(folder, seed, values=DEEPLAB, space="cityscapes19", image=None):
    """A checkpoint of random weights whose masks have many classes; its layers are normalised, so that each of them matters."""
    torch.manual_seed(seed)
    cfg, space = parse_model(values, where="test"), labels.space(space)
    bands = 3 if image is None else len(image.bands)
    network = models.build(cfg, space.num_classes, bands=bands).train()
    last = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == space.num_classes]
    x = torch.randn(1, bands, 128, 128)
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 1  # the statistics of x, in one pass
    with torch.no_grad():
        network(x.repeat(2, 1, 1, 1))
        network.eval()
        for conv in last:
            conv.weight.div_(network(x)[-1].std(dim=(0, 2, 3)).mean())
        last[-1].bias.sub_(network(x)[-1].mean(dim=(0, 2, 3)))
    checkpoint.save(str(folder), network, cfg, space, {}, image)
    return str(folder)


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("lively"), 3)


def config(corpus, best, output, **changes):
    values = {
        "corpus": {"images": corpus, "labels": corpus, "layout": "cityscapes"}, "checkpoint": str(best),
        "output": str(output), "images_per_shard": 1, "max_reject_rate": 1, "cpus_per_actor": 1,
    }  # fmt: skip
    return parse(SegmentConfig, values | changes, where="test")


def masks(table):
    return [np.array(Image.open(io.BytesIO(row["mask"]["bytes"]))) for row in table.to_pylist()]


def answered(cfg):
    table, rejects = ShardSegmenter(load_checkpoints(cfg), cfg).answer(list_items(cfg.corpus, None))
    assert not rejects.num_rows
    return table


# --- ensembles -----------------------------------------------------------------------------------------------------------


def test_an_ensemble_of_a_network_with_itself_gives_its_labels_and_counts(corpus, lively, tmp_path):
    alone = answered(config(corpus, lively, tmp_path, predict={"flip": True}))
    both = answered(config(corpus, lively, tmp_path, predict={"flip": True}, ensemble=[lively]))
    assert len(np.unique(np.stack(masks(alone)))) > 1
    assert np.array_equal(np.stack(masks(alone)), np.stack(masks(both)))
    for column in ("confusion", "pixels", "confidence", "entropy"):
        assert alone[column].equals(both[column])


def test_an_ensemble_of_unlike_networks_averages_their_probabilities(corpus, tmp_path):
    """Their strides, paddings and preprocessing differ; the mean is computed from torch's own softmax of padded inputs."""
    first = saved(tmp_path / "a", 0)
    second = saved(tmp_path / "b", 1, {"name": "lraspp"})
    third = saved(tmp_path / "c", 2, {"name": "unet", "channels": 4, "depth": 1, "batch_norm": True})
    cfg = config(corpus, first, tmp_path / "run", ensemble=[second, third])
    ready = load_checkpoints(cfg)
    networks = [ready.model, *(other.model for other in ready.others)]
    assert len({network.mean for network in networks}) == 2 and len({n.multiple_of for n in networks}) == 3
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    expected = torch.zeros(19, 37, 51)
    for network in networks:
        height, width = network.legal_size(37, 51)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.mean, network.std))
        x = torch.zeros(1, 3, height, width)
        x[0, :, :37, :51] = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
        with torch.no_grad():
            expected += torch.softmax(network(x)[-1][0, :, :37, :51].double(), dim=0).float() / 3
    predictor = Predictor(networks[0], PredictConfig(), others=networks[1:])
    assert torch.allclose(predictor.probs([image])[0], expected, atol=1e-5)
    (found,) = predictor.masks([image])
    top = expected.sort(dim=0).values
    sure = (top[-1] - top[-2] > 1e-4).numpy()
    assert sure.mean() > 0.9 and np.array_equal(found.mask[sure], expected.argmax(dim=0).numpy()[sure])
    for network in networks:  # it is the mask of none of them
        assert not np.array_equal(Predictor(network, PredictConfig()).masks([image])[0].mask[sure], found.mask[sure])


def test_images_share_a_batch_only_where_every_network_pads_them_alike():
    sizes = []

    class Seen(models.Network):
        def __init__(self, multiple):
            super().__init__()
            self.min_size = self.multiple_of = multiple

        def forward(self, x):
            sizes.append(tuple(x.shape))
            return [x.mean(dim=1, keepdim=True).expand(-1, 2, -1, -1) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)]

    images = [np.full((rows, 32, 3), rows * 4, np.uint8) for rows in (32, 20, 28, 16)]
    predictor = Predictor(Seen(32), PredictConfig(), batch_size=4, others=[Seen(8)])
    found = [prediction.mask.shape for prediction in predictor.masks(images)]
    assert found == [image.shape[:2] for image in images]
    coarse, fine = [(2, 32), (1, 32), (1, 32)], [(2, 32), (1, 24), (1, 16)]
    assert sorted((batch, height) for batch, _, height, _ in sizes) == sorted(coarse + fine)


def test_members_decide_the_fingerprint_and_nothing_else_does(corpus, tiny_checkpoint, tmp_path):
    second = saved(tmp_path / "b", 1)
    one, two = (config(corpus, tiny_checkpoint, tmp_path / "run", ensemble=more) for more in ([], [second]))
    alone, both = (identity(cfg, load_checkpoints(cfg)) for cfg in (one, two))
    assert both["members"]["2"]["weights_sha256"] == checkpoint.load(second).sha256
    assert alone == {name: value for name, value in both.items() if name != "members"}
    assert fingerprint_of(alone) != fingerprint_of(both)
    assert "ensemble" not in one.model_dump(mode="json")
    shutil.copytree(second, tmp_path / "copy")
    moved = config(corpus, tiny_checkpoint, tmp_path / "run", ensemble=[str(tmp_path / "copy")])
    assert identity(moved, load_checkpoints(moved)) == both


def test_members_of_other_classes_or_bands_are_refused_by_their_difference(corpus, tiny_checkpoint, tmp_path):
    other = saved(tmp_path / "classes", 1, space="camvid11")
    with pytest.raises(UserError, match=r'ensemble: .*classes and .* no mean: .*class 0 "road", now "[a-z]+"'):
        load_checkpoints(config(corpus, tiny_checkpoint, tmp_path / "run", ensemble=[tiny_checkpoint, other]))
    bands = saved(tmp_path / "bands", 1, image=ImageConfig(bands=(1, 2, 3), range=(0, 4095)))
    with pytest.raises(UserError, match=r"image: null, now .*4095"):
        load_checkpoints(config(corpus, tiny_checkpoint, tmp_path / "run", ensemble=[bands]))


def test_a_member_on_this_machines_disk_does_not_travel_to_a_cluster(tmp_path):
    values = {
        "corpus": {"images": "s3://b/a", "layout": "cityscapes"},
        "checkpoint": "s3://b/m",
        "output": "s3://b/run",
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values | {"ensemble": ["s3://b/n", "/here/model"]}))
    with pytest.raises(UserError, match=r"ensemble\.1 is /here/model, a path of this machine"):
        prepare("segment", str(path), [])


def test_an_actor_is_bound_to_every_member(corpus, tiny_checkpoint, tmp_path):
    second = saved(tmp_path / "second", 1)
    cfg = config(corpus, tiny_checkpoint, tmp_path / "run", ensemble=[second])
    run = begun(cfg)
    first = checkpoint.load(second).sha256
    assert describe(cfg.output).identity["members"]["2"]["weights_sha256"] == first
    segmenter = Segmenter(cfg.model_dump(mode="json"), run.fingerprint, {})
    assert segmenter.segmenter.predictor.model.min_size == 16
    other = save_another(second)
    late = Segmenter(cfg.model_dump(mode="json"), run.fingerprint, {})
    with pytest.raises(
        UserError, match=f"sha256 {first}, and the checkpoint at {second} now has {other}; put the first"
    ):
        _ = late.segmenter
    with pytest.raises(UserError, match=f'members.2.weights_sha256: "{first}", now "{other}"'):
        begun(cfg)


def begun(cfg):
    """The run of a config, with nothing answered."""
    ready, plan = load_checkpoints(cfg), lambda: plan_shards(list_items(cfg.corpus, None), 1)
    return Run.open_or_create(
        cfg.output, identity(cfg, ready), cfg.model_dump(mode="json"), ready.label_space, make_plan=plan
    )


def save_another(uri):
    saved(uri, 5)
    return checkpoint.load(uri).sha256


@pytest.mark.slow
@pytest.mark.long
def test_a_member_replaced_in_mid_run_ends_it_and_the_first_one_finishes_it(
    ray_session, corpus, tiny_checkpoint, tmp_path
):
    second = saved(tmp_path / "second", 1)
    shutil.copytree(second, tmp_path / "kept")
    predict = {"scales": [1.0] * 4}
    unbroken = config(corpus, tiny_checkpoint, tmp_path / "unbroken", ensemble=[second], predict=predict)
    segment(unbroken)
    cfg, first, others = config(corpus, tiny_checkpoint, tmp_path / "run", ensemble=[second], predict=predict), "", []
    first = checkpoint.load(second).sha256

    def replace(progress):
        if progress.answered_now and not others:
            others.append(save_another(second))
            (actor,) = (pid for pid in children(os.getpid()) if "MapWorker" in title(pid))
            os.kill(actor, signal.SIGKILL)

    with pytest.raises(UserError) as ended:
        segment(cfg, replace)
    assert f"sha256 {first}, and the checkpoint at {second} now has {others[0]}" in str(ended.value)
    before = rows(cfg.output)
    assert 0 < len(before) < IMAGES
    shutil.rmtree(second)
    shutil.copytree(tmp_path / "kept", second)
    assert segment(cfg).answered_now == IMAGES - len(before)
    assert rows(cfg.output) == rows(unbroken.output) and verify(cfg.output).problems == []
    assert len(pq.read_table(Path(cfg.output) / "masks")) == IMAGES


# --- output stride -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_stride_16_predicts_at_8_as_the_network_built_at_8_does(tmp_path):
    values = {"name": "deeplabv3", "output_stride": 16, "aux": False}
    uri = saved(tmp_path / "m", 0, values)
    torch.manual_seed(9)
    finer = models.build(parse_model(values | {"output_stride": 8}, where="test"), 19).eval()
    finer.load_state_dict(checkpoint.load(uri).model.state_dict())
    asked = checkpoint.load(uri, output_stride=8)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert asked.model.coarse(x).shape[-2:] == (8, 8)
        assert torch.equal(asked.model(x)[-1], finer(x)[-1])
    assert asked.model_config.output_stride == 16 and asked.identity == checkpoint.load(uri).identity


@pytest.mark.parametrize(
    ("values", "stride", "rates"),
    [
        ({}, 8, (12, 24, 36)),
        ({"rates": [5, 10]}, 8, (10, 20)),
        ({"output_stride": 8, "rates": [5, 10]}, 16, (2, 5)),
        ({"multi_grid": [1, 2, 4]}, 8, (12, 24, 36)),
    ],
)
def test_deeplabv3s_rates_follow_its_stride(values, stride, rates):
    cfg = parse_model({"name": "deeplabv3", "output_stride": 16} | values, where="test")
    other = with_output_stride(cfg, stride, where="test")
    assert (other.output_stride, other.rates, other.multi_grid) == (stride, rates, cfg.multi_grid)


def test_an_output_stride_is_refused_where_the_network_has_none(corpus, tmp_path):
    uri = saved(tmp_path / "m", 0, {"name": "unet", "channels": 4})
    with pytest.raises(
        UserError, match=rf"predict.output_stride 8: checkpoint {uri} is of unet, whose stride is fixed"
    ):
        load_checkpoints(config(corpus, uri, tmp_path / "run", predict={"output_stride": 8}))
    with pytest.raises(UserError, match=r"found 4; choose one of 8, 16, 32"):
        config(corpus, uri, tmp_path / "run", predict={"output_stride": 4})


@pytest.mark.parametrize(
    ("values", "stride", "words"),
    [
        ({"name": "deeplabv3"}, 32, "output_stride: found 32; choose one of 8, 16"),
        ({"name": "deeplabv3", "backbone": "mobilenet_v3_large", "output_stride": 16}, 8, "at 16 alone"),
    ],
)
def test_a_stride_that_the_network_cannot_have_is_refused(values, stride, words):
    with pytest.raises(UserError, match=words):
        with_output_stride(parse_model(values, where="test"), stride, where="checkpoint x")


def test_an_output_stride_changes_masks_and_fingerprint_only_where_it_is_set(corpus, lively, tmp_path):
    plain, finer = (config(corpus, lively, tmp_path / "run", predict=predict) for predict in ({}, {"output_stride": 8}))
    assert "output_stride" not in plain.model_dump(mode="json")["predict"]
    one, two = (identity(cfg, load_checkpoints(cfg)) for cfg in (plain, finer))
    assert one["predict"] | {"output_stride": 8} == two["predict"]
    assert {**one, "predict": None} == {**two, "predict": None}
    assert not answered(plain)["entropy"].equals(answered(finer)["entropy"])
