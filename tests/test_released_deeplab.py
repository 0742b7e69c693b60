"""DeepLab's TensorFlow releases are imported: their variables give the logits of the network that stored them."""

import numpy as np
import pytest
import torch

from pipeline import models
from pipeline.config import parse_model
from pipeline.errors import UserError
from pipeline.models import checkpoint
from pipeline.models.identify import import_weights
from pipeline.models.tensorflow_release import rename
from tests.released_deeplab import Ops, Released

RELEASES = {"mobilenet_v2": "mobilenet_v2", "xception_65": "xception65"}


def pixels(size):
    return torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(5)).float()


def stored(network, folder, **more):
    file = str(folder / "variables.npz")
    np.savez(file, global_step=np.int64(30000), **network.variables, **more)
    return file


@pytest.mark.parametrize("backbone", ["mobilenet_v2", pytest.param("xception_65", marks=pytest.mark.slow)])
def test_a_release_gives_its_own_logits_at_both_output_strides(backbone, tmp_path):
    """In double precision, so that only what import rounds differs."""
    network, image = Released(Ops()), pixels((33, 49)).double()
    rates = (6, 12, 18) if backbone == "xception_65" else ()
    with torch.no_grad():
        expected = {16: network.logits(image / 127.5 - 1, backbone, 16, rates, 21)}
        expected[8] = network.logits(image / 127.5 - 1, backbone, 8, [2 * rate for rate in rates], 21)
    done = import_weights(stored(network, tmp_path), {}, None, str(tmp_path / "out"))
    assert done.cfg.backbone == RELEASES[backbone] and done.cfg.decoder == (backbone == "xception_65")
    assert done.cfg.aspp_rates == rates and done.space.name == "voc21"
    for stride in (16, 8):
        found = checkpoint.load(str(tmp_path / "out"), output_stride=stride).model
        assert found.legal_size(33, 49) == (33, 49) and found.legal_size(34, 48) == (33 + stride, 49)
        with torch.no_grad():
            logits = found.double()(image / 127.5 - 1)[-1]
        assert found.mean == found.std == (0.5, 0.5, 0.5)
        assert logits.std() > 0.1
        assert (
            float((logits - expected[stride]).abs().max() / expected[stride].abs().max()) < 1e-4
        )  # folded epsilons are rounded


def test_the_released_mobilenet_is_of_the_papers_size():
    """arXiv:1801.04381, table 7: MobileNetV2 at output stride 16 without ASPP, 2.11 M parameters."""
    values = {"name": "deeplabv3plus", "backbone": "mobilenet_v2", "decoder": False, "aspp_rates": []}
    with torch.device("meta"):
        network = models.build(parse_model(values, where="test"), 21)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 2.11


@pytest.fixture(scope="module")
def variables():
    network = Released(Ops())
    with torch.no_grad():
        network.logits(torch.zeros(1, 3, 33, 33), "mobilenet_v2", 16, (), 21)
    return network.variables


def test_a_release_of_another_network_is_refused_with_what_differs(variables):
    tensors = {name: torch.from_numpy(value) for name, value in variables.items()}
    with pytest.raises(UserError, match="MobilenetV2/Conv_1/weights is of no layer of DeepLab on MobileNetV2"):
        rename({**tensors, "MobilenetV2/Conv_1/weights": torch.zeros(1, 1, 320, 1280)})
    with pytest.raises(UserError, match="a TensorFlow release without 'image_pooling/BatchNorm/gamma'"):
        rename({name: value for name, value in tensors.items() if not name.startswith("image_pooling")})
    cfg = parse_model({"name": "deeplabv3plus", "decoder": True}, where="test")
    with pytest.raises(UserError, match="a TensorFlow release's with decoder=False, found decoder=True: leave it out"):
        models.published_config(tensors, cfg)


@pytest.mark.parametrize(
    "name", ["model.ckpt-30000.index", "model.ckpt.data-00000-of-00001", "frozen_inference_graph.pb"]
)
def test_a_file_that_only_tensorflow_reads_is_answered_with_the_line_that_converts_it(name, tmp_path):
    with pytest.raises(
        UserError, match=r"only TensorFlow reads; .*tf\.train\.load_checkpoint.* and give variables\.npz"
    ):
        import_weights(str(tmp_path / name), {}, None, str(tmp_path / "out"))


def test_a_file_of_arrays_with_a_pickle_is_refused(tmp_path):
    np.savez(tmp_path / "odd.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"not a readable file of arrays .*allow_pickle=False"):
        import_weights(str(tmp_path / "odd.npz"), {}, None, str(tmp_path / "out"))
