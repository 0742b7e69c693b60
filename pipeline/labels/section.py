"""Label spaces as sections of a config, a YAML file or a checkpoint, and the built-in label spaces.

`spaces/*.yaml` holds the built-in ones, each with the source of its list of classes.
"""

from collections.abc import Iterable
from functools import cache, cached_property
from importlib import resources
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from pipeline.errors import UserError, nearest
from pipeline.labels.changes import changes
from pipeline.labels.checks import check_colours, check_names, check_said, check_stored
from pipeline.labels.colours import with_fresh
from pipeline.labels.label_space import IGNORE, MAX_VALUE, LabelSpace

SPACES = (
    "cityscapes19", "voc21", "camvid11", "cityscapes34", "camvid32", "ade20k150", "cocostuff171", "coco133", "mapillary65",
    "mapillary124", "bdd100k", "kitti", "nyu40",
)  # fmt: skip
# Runs identify these by name alone: from before label spaces were data, runs have only their name, classes and colours.
BY_NAME = ("cityscapes19", "voc21", "camvid11")


def _rgb(value: Any) -> Any:
    """Convert '#804080' to (128, 64, 128); other values are returned unchanged."""
    if isinstance(value, str) and len(digits := value.removeprefix("#")) == 6:
        try:
            return tuple(bytes.fromhex(digits))
        except ValueError:
            pass
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


Channel = Annotated[int, Field(ge=0, le=255, strict=True)]
Rgb = Annotated[tuple[Channel, Channel, Channel], BeforeValidator(_rgb)]
Values = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_VALUE, strict=True)], ...], BeforeValidator(_listed)]


class LabelClass(BaseModel):
    """One class; its name alone is enough."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1, strict=True)
    """What the class is called in tables, reports and exports; no other class may have the name."""
    colour: Rgb | None = None
    """Colour it is shown in: [red, green, blue] of 0..255, or '#rrggbb'; absent: one that no other class has."""
    values: Values | None = None
    """Stored ids (0..65535) that mean this class, one or several; absent in all classes: 0, 1, 2, ... in their order."""
    stored_colours: tuple[Rgb, ...] = ()
    """Colours that mean this class where label pictures are coloured; see colour_labels for the usual case."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return value if isinstance(value, (dict, LabelClass)) else {"name": value}


class LabelSpaceSection(BaseModel):
    """The classes of a corpus: names, colours, and what label pictures hold for them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field("own", min_length=1, strict=True)
    """What tables and messages call the label space; absent: the name of its YAML file, or 'own'."""
    classes: tuple[LabelClass, ...] = Field(min_length=1)
    """The classes in the order of their train ids: names, or sections with name, colour, values; 254 at most."""
    colour_labels: bool = False
    """Whether label pictures hold the classes' own colours rather than ids."""
    ignore_values: Values | None = None
    """Stored ids that train and count nowhere; absent: 255, unless it is a class's."""
    ignore_colours: tuple[Rgb, ...] = ()
    """Colours in label pictures that train and count nowhere."""
    equal_colours: bool = False
    """Whether classes may be shown in one colour, as some published lists have it; they look alike in every picture."""
    categories: dict[str, tuple[str, ...]] = {}
    """Category -> names of its classes, for the IoU of categories; absent: each class is one."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return space(value).to_section() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_sound(self, info: ValidationInfo) -> "LabelSpaceSection":
        check_names([one.name for one in self.classes])
        check_said(
            {one.name: bool(one.values is not None or one.stored_colours or self.colour_labels) for one in self.classes}
        )
        made = self.space
        if not self.equal_colours:
            check_colours(made)
        check_stored(made)
        if self.name in SPACES and not info.context and made != (known := space(self.name)):
            raise UserError(
                f"'{self.name}' is the name of a built-in label space, and these classes differ from it "
                f"({changes(known, made)[0]}); give yours another name"
            )
        return self

    @model_serializer
    def _plain(self) -> Any:
        named = self.name in SPACES and self.space == space(self.name)
        return self.name if named else self.space.to_section()

    @cached_property
    def space(self) -> LabelSpace:
        """The label space that the section describes."""
        names = [one.name for one in self.classes]
        colours = with_fresh([one.colour for one in self.classes])
        stored = [one.stored_colours for one in self.classes]
        if self.colour_labels:
            stored = [own or (colour,) for own, colour in zip(stored, colours, strict=True)]
        values = [one.values or () for one in self.classes]
        if all(one.values is None for one in self.classes) and not any(stored):
            values = [(index,) for index in range(len(names))]
        taken = {value for of_class in values for value in of_class}
        ignored = self.ignore_values if self.ignore_values is not None else {IGNORE} - taken if taken else ()
        categories = self.categories or {name: (name,) for name in names}
        return LabelSpace(
            name=self.name,
            classes=tuple(names),
            colours=tuple(colours),
            values=tuple(values),
            stored_colours=tuple(stored),
            ignored_ids=frozenset(ignored),
            ignored_colours=frozenset(self.ignore_colours),
            categories={name: _indices(name, members, names) for name, members in categories.items()},
        )


def from_section(values: Any, where: str) -> LabelSpace:
    """Build a label space from a section of a checkpoint or a run, or from a built-in name.

    Raises:
        UserError: the section is not valid; the message names `where`.
    """
    try:
        return LabelSpaceSection.model_validate(values).space
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        words = problem.get("ctx", {}).get("error") or problem["msg"]
        raise UserError(f"{where}: {key}{': ' if key else ''}{words}") from None


def identity_of(found: LabelSpace) -> Any:
    """Return what identifies a space in a run: the whole space as JSON, or only the name for those in BY_NAME."""
    return found.name if found.name in BY_NAME and found == space(found.name) else found.to_section()


def _indices(category: str, members: Iterable[str], names: list[str]) -> tuple[int, ...]:
    for member in members:
        if member not in names:
            raise UserError(
                f"category '{category}' has '{member}', which is not a class; choose one of {', '.join(names)}"
            )
    return tuple(names.index(member) for member in members)


def space(name: str) -> LabelSpace:
    """Return the built-in label space of that name; UserError lists the known ones."""
    if name not in SPACES:
        raise UserError(
            f"label space '{name}' is unknown; choose one of {', '.join(SPACES)}, or give a YAML file of your own classes"
            f"{nearest(name, SPACES)}"
        )
    return _read(name)


@cache
def _read(name: str) -> LabelSpace:
    text = resources.files("pipeline.labels").joinpath("spaces", f"{name}.yaml").read_text()
    return LabelSpaceSection.model_validate(yaml.safe_load(text), context={"built_in": True}).space
