"""What the maker of a release file says about the network in it; the YAML file of `maskmill release --card`."""

from pydantic import Field

from pipeline.config.base import Section, Size
from pipeline.config.segment import CrfConfig


class ReleaseCard(Section):
    """A short model card (Mitchell et al. 2019, arXiv:1810.03993), as far as the network itself does not say it."""

    title: str | None = None
    """What the network is, in a few words."""
    data: str | None = None
    """The data set that it learnt from, and where that comes from."""
    licence: str | None = None
    """Of the weights, and of the data where that binds those who use them."""
    split: str | None = None
    """What it learnt from, and what it was measured on."""
    figures: dict[str, float | str] = Field({})
    """What was measured, by name, such as `mIoU on val: 74.1`."""
    command: str | None = None
    """The command that trained it."""
    notes: str | None = None
    """What it is not for, and where it fails."""
    image_size: Size | None = None
    """[pixels] Height and width of the images that it learnt from. `demo --pretrained` shrinks pictures of more than twice that
    height to it before it predicts. Absent: it predicts them as they are."""
    crf: CrfConfig | None = None
    """The dense CRF that was measured to help this network; `demo --pretrained` then uses it. Absent: no CRF."""
