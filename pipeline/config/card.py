"""What the maker of a release file says about the network in it; the YAML file of `maskmill release --card`."""

from pydantic import Field

from pipeline.config.base import Section, Size
from pipeline.config.segment import CrfConfig


class ReleaseCard(Section):
    """A short model card (Mitchell et al. 2019, arXiv:1810.03993), with what the network's own config does not say."""

    title: str | None = None
    """What the network is, in a few words."""
    data: str | None = None
    """The data set that it was trained on, and the source of that data."""
    licence: str | None = None
    """Licence of the weights, and of the data if that binds users of the weights."""
    split: str | None = None
    """The splits that it was trained and evaluated on."""
    figures: dict[str, float | str] = Field({})
    """Results by name, such as `mIoU on val: 74.1`."""
    command: str | None = None
    """The command that trained it."""
    notes: str | None = None
    """What it is not for, and where it fails."""
    image_size: Size | None = None
    """[pixels] Height and width of the training images. `demo --pretrained` shrinks pictures of more than twice that height to
    it before predicting. Absent: pictures are predicted at their own size."""
    crf: CrfConfig | None = None
    """The dense CRF that was measured to help this network; `demo --pretrained` then uses it. Absent: no CRF."""
