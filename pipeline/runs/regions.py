"""The table of regions: one row per connected region of a mask (pipeline/imaging/regions.py), one part per masks part.

It is made from the masks part, whose column `regions` holds the regions of each image. So a regions part that is missing after
a kill can be written again, and the masks part stays a shard's complete answer in one object. The metadata of a regions part
names its masks part.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.imaging.polygons import geoparquet
from pipeline.imaging.regions import Regions
from pipeline.labels import LabelSpace
from pipeline.runs.parts import Footer, Part, footer_of, read_table, write_part
from pipeline.runs.schema import GEOREFERENCE, POLYGON, REGION_FIELDS, REGIONS, region_schema

MASKS = "maskmill.masks"  # key of a regions part's metadata: sha256 of the footer of its masks part
_PLAIN = pa.struct(REGION_FIELDS)  # without polygons


def region_array(found: Regions, polygons: list[bytes] | None = None) -> pa.StructArray:
    """Return the regions of one mask, of type `region_type`."""
    number = len(found.area)
    confidence = pa.nulls(number, pa.float32()) if found.confidence is None else found.confidence.astype(np.float32)
    columns = [found.class_id, found.area, *found.box.T, *found.centroid.T.astype(np.float32), confidence]
    fields = list(REGION_FIELDS)
    if polygons is not None:
        columns.append(polygons)
        fields.append(POLYGON)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def with_regions(masks: pa.Table, regions: list[pa.StructArray], kind: pa.StructType = _PLAIN) -> pa.Table:
    """Append the column of regions to mask rows: one array of type `kind` per row."""
    offsets = np.cumsum([0, *map(len, regions)])
    values = pa.concat_arrays(regions) if regions else pa.array([], kind)
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=pa.list_(kind))
    return masks.append_column(pa.field(REGIONS, column.type, nullable=False), column)


def regions_table(masks: pa.Table, space: LabelSpace) -> pa.Table:
    """Return the table of regions (`region_schema`) of mask rows with regions, in their order."""
    names = masks.schema.names
    groups = names[names.index("member") + 1 : names.index("height")]
    nested = masks[REGIONS].combine_chunks()
    images = masks.select(["image_id", *groups, "height", "width"]).take(pc.list_parent_indices(nested))
    found = dict(zip([field.name for field in nested.type.value_type], nested.flatten().flatten(), strict=True))
    columns = {name: images[name] for name in images.schema.names} | found
    columns["class"] = pa.DictionaryArray.from_arrays(found["class_id"], list(space.classes))
    for edge, end in (("top", 0), ("left", 0), ("bottom", images["height"]), ("right", images["width"])):
        columns[f"touches_{edge}"] = pc.equal(found[f"box_{edge}"], end)
    schema = region_schema(tuple(masks.schema.field(name) for name in groups), POLYGON.name in found)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def regions_metadata(footer: Footer, tables: list[pa.Table]) -> dict[str, str]:
    """Return the metadata of a regions part, from the footer and rows of its masks part; with polygons, it is GeoParquet."""
    known = {**footer.metadata, MASKS: footer.sha256}
    if POLYGON.name not in {field.name for table in tables for field in table.schema.field(REGIONS).type.value_type}:
        return known
    places = set[str | None]()
    for table in tables:
        places |= set(table[GEOREFERENCE].to_pylist() if GEOREFERENCE in table.schema.names else [None])
    return {**known, "geo": geoparquet(POLYGON.name, places)}


def regions_part(space: LabelSpace, part: Part, masks: bytes) -> tuple[str, bytes]:
    """Return name in the run and bytes of the regions part that belongs to a masks part with these bytes."""
    table = read_table(masks)
    metadata = regions_metadata(footer_of(masks, part.name), [table])
    return regions_name(part), write_part(regions_table(table, space), metadata)


def regions_name(part: Part) -> str:
    """Return the name in the run of a masks part's regions part."""
    return f"regions/{part.name.rpartition('/')[2]}"


def follows(footer: Footer, masks: Footer) -> bool:
    """Return whether a regions part was made from a masks part."""
    return footer.metadata.get(MASKS) == masks.sha256
