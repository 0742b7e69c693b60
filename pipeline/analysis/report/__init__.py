"""Write a static HTML report of a run, without external requests; all numbers come from the run's Parquet files."""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline import storage
from pipeline.analysis.card import temperature
from pipeline.analysis.report import figures, tables
from pipeline.analysis.report.gallery import ERRORS, cards, palettes
from pipeline.analysis.report.header import facts_of
from pipeline.analysis.report.picks import SAMPLE, Choice, Picks, pick
from pipeline.analysis.report.since import since_facts
from pipeline.analysis.report.snippets import snippets
from pipeline.analysis.run_counts import ALL
from pipeline.analysis.run_view import RunView, open_run
from pipeline.errors import UserError
from pipeline.metrics.calibration import Calibration
from pipeline.metrics.metric import Section, percent, points
from pipeline.metrics.registry import chosen

WEAK_CLASSES = 3  # classes named beside an image: those with its lowest IoU


def write_report(
    run_uri: str, num_worst: int = 8, beside_uri: str | None = None, earlier_uris: Sequence[str] = ()
) -> str:
    """Write `<run>/report.html` and return its URI.

    Args:
        num_worst: images of each kind (worst, typical, random) to show for the whole run; fewer for each class and group.
            They are ranked by IoU, or without labels by confidence.
        beside_uri: another run over the same images, shown beside this one.
        earlier_uris: earlier runs, oldest first, to compare this one with, without labels; if none is named, a run that was
            extended is compared with its own earlier generations.
    Raises:
        UserError: there is no run, nothing is answered yet, or another run cannot be compared.
    """
    view = open_run(run_uri)
    beside = None if beside_uri is None else open_run(beside_uri)
    environment = Environment(
        loader=PackageLoader("pipeline.analysis.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["width"] = lambda value: "0" if value is None or math.isnan(value) else f"{100 * value:.2f}"
    environment.filters["points"] = points
    environment.filters["count"] = lambda value: f"{int(value):,}".replace(",", "\u202f")
    # The page's security policy allows one script, by its hash; without it the page shows what the style sheet alone can.
    script = environment.get_template("report.js").render().encode()
    sha256 = base64.b64encode(hashlib.sha256(script).digest()).decode()
    facts = _facts(view, num_worst, beside) | {"since": since_facts(view, earlier_uris)}
    html = environment.get_template("report.html.j2").render(script_sha256=sha256, **facts)
    uri = storage.join(view.uri, "report.html")
    storage.put(uri, html.encode())
    return uri


def _facts(view: RunView, num_worst: int, beside: RunView | None) -> dict[str, Any]:
    summary = view.summary()
    labelled = summary["labelled"] > 0
    if beside is not None and not labelled:
        raise UserError(f"run {view.uri}: none of its images has a label, so there is nothing to compare; leave it out")
    comparison = None if beside is None else beside.compare(view)
    rejects = view.rejects()
    return {
        "title": tables.title(view),
        "uri": view.uri,
        "header": facts_of(view),
        "summary": summary,
        "labelled": labelled,
        "intervals": view.intervals() if labelled else None,
        "scores": view.scores().loc[ALL] if labelled else None,
        "beside": None if comparison is None or beside is None else tables.beside_facts(view, beside, comparison),
        "classes": tables.class_rows(view, comparison) if labelled else tables.area_rows(view),
        "metrics": _metrics(view) if labelled else [],
        "groups": tables.group_tables(view) if labelled else [],
        "throughput": figures.throughput(view),
        **_pictures(view, num_worst, labelled, beside),
        "rejects": [
            {"reason": reason, "count": len(rows), "examples": rows.head(3).to_dict("records")}
            for reason, rows in rejects.groupby("error", sort=False)
        ],
        "snippets": snippets(view.uri, "city", view.space.classes),
        "config": yaml.safe_dump(view.description.config, sort_keys=False),
        "description": view.description,
    }


def _pictures(view: RunView, num_worst: int, labelled: bool, beside: RunView | None) -> dict[str, Any]:
    """Return the gallery, its choices, the confusions that link to it, and charts of image scores and region sizes."""
    heat = tables.heat(view) if labelled else None
    pairs = [] if heat is None else heat["pairs"]
    picks = pick(view, num_worst, labelled, [(_pair_name(pair), pair["images"][0][1]) for pair in pairs])
    sample = picks.sample[: figures.REGION_IMAGES]
    regions = figures.Regions(view.space, set(sample))
    shown = cards(view, picks.ids, regions.add, also=sample, beside=beside)
    places = {image_id: place for place, image_id in enumerate(picks.ids)}
    return {
        "class_names": list(view.space.classes),
        "heat": heat,
        "pairs": pairs,
        "places": places,
        "first": [places[image_id] for image_id in picks.choices[0].images["worst"]],
        "cards": [
            {
                "image_id": image_id,
                "words": _words(view, picks, image_id, labelled),
                "scores": _scores(view, picks, image_id) if labelled else "",
                **card,
            }
            for image_id, card in zip(picks.ids, shown, strict=True)
        ],
        "choices": [_choice(choice, places) for choice in picks.choices],
        "score_chart": figures.score_chart(picks.scores, "mIoU" if labelled else "confidence"),
        "regions": regions.facts(),
        "sample_size": SAMPLE,
        "min_interval_images": tables.MIN_INTERVAL_IMAGES,
        "legend": _legend(view, labelled),
        "palettes": list(palettes(view.space)),
        "errors": {name: tables.hexed(colour) for name, colour in ERRORS.items()},
    }


def _pair_name(pair: dict[str, Any]) -> str:
    return f"{pair['truth']} → {pair['found']}"


def _choice(choice: Choice, places: dict[str, int]) -> dict[str, Any]:
    images = {kind: " ".join(str(places[image_id]) for image_id in ids) for kind, ids in choice.images.items()}
    return {"heading": choice.heading, "name": choice.name, "class_id": choice.class_id, **images}


def _words(view: RunView, picks: Picks, image_id: str, labelled: bool) -> str:
    """Return the scores of one image as text, in percent."""
    facts = picks.facts[image_id]
    words = [f"confidence {percent(facts['confidence'])} %"]
    if labelled:
        if not math.isnan(facts["score"]):
            words.insert(0, f"mIoU {percent(facts['score'])} %")
        scores = [(facts[index], name) for index, name in enumerate(view.space.classes) if not math.isnan(facts[index])]
        weak = [f"{name} {100 * score:.0f}" for score, name in sorted(scores)[:WEAK_CLASSES]]
        words += [f"lowest: {', '.join(weak)}"] if weak else []
    return " · ".join(words)


def _scores(view: RunView, picks: Picks, image_id: str) -> str:
    """Return IoU of each class in percent, for the script; empty for a class that the image does not have."""
    scores = (picks.facts[image_id][index] for index in range(view.space.num_classes))
    return ",".join("" if math.isnan(score) else f"{100 * score:.1f}" for score in scores)


def _legend(view: RunView, labelled: bool) -> list[dict[str, str]]:
    """Return name and colours of each class that is in any mask or label."""
    seen = view.areas().loc[ALL][list(view.space.classes)].to_numpy()
    if labelled:
        seen = seen + view.confusion().sum(axis=1)
    colours = palettes(view.space)
    return [
        {
            "name": name,
            "rgb": ",".join(map(str, colours["data"][index])),
            **{palette: tables.hexed(table[index]) for palette, table in colours.items()},
        }
        for index, name in enumerate(view.space.classes)
        if seen[index]
    ]


def _metrics(view: RunView) -> list[Section]:
    """Return the section of each metric that the run counted, with the scores from before the CRF beside the final ones."""
    sections = [
        metric.section(
            view.metric_scores(metric),
            view.metric_scores(metric, raw=True) if view.has_raw() and len(metric.columns) > 1 else None,
            view.space,
        )
        for metric, _ in chosen(view.settings)
    ]
    if (divisor := temperature(view)) == 1:
        return sections
    words = f" The network's logits are divided by the temperature {divisor:g}."
    return [replace(one, note=one.note + words) if one.id == Calibration.section_id else one for one in sections]
