"""Describe a run briefly, for a terminal and for a notebook: what it is, and which methods answer questions about it."""

from html import escape
from typing import Any

from pipeline.analysis.run_counts import RunCounts
from pipeline.metrics.metric import percent

ASK = ".iou(by=[...])  .intervals()  .worst(20)  .overlay(image_id)  .frame([...])"
COUNTED_IMAGES = 200_000  # a card of more images has no mIoU, so that it takes at most about a second
MAX_SWATCHES = 40


def network_name(identity: dict[str, Any]) -> str:
    """Name the network of a run, such as `deeplabv3plus, efficientnet_lite0`; "" if the run does not record it."""
    model = identity.get("model") or {}
    words = [model.get("name"), model.get("backbone") or model.get("encoder") or model.get("depth")]
    members = len(identity.get("members") or {})
    name = ", ".join(str(word) for word in words if word)
    return f"{name}, and {members} more" if members else name


def temperature(view: RunCounts) -> float:
    """Return the temperature that the network's logits were divided by; 1 if they were not."""
    return float((view.description.config.get("predict") or {}).get("temperature", 1))


def lines(view: RunCounts) -> str:
    """Describe a run in three lines; reads only `run.json`, `_SUCCESS.json` and, if it is unfinished, the list of its parts."""
    info, space = view.description, view.space
    network = network_name(info.identity)
    return "\n".join(
        (
            f"Run {view.uri}: {state(view)}",
            f"  {network + ' · ' if network else ''}{space.name}, {space.num_classes} classes · {answered(view)}",
            f"  {ASK}",
        )
    )


def state(view: RunCounts) -> str:
    """Whether a run is finished, and since when."""
    finished = view.finished()
    grown = f", generation {view.generation}" if view.generation > 1 else ""
    return f"finished {finished[:16].replace('T', ' ')} UTC{grown}" if finished else "not finished"


def answered(view: RunCounts) -> str:
    """Say how many masks and rejects a run has; for an unfinished one, how many shards are answered."""
    if view.state is not None:
        return f"{view.state.rows} masks, {view.state.rejects} rejects"
    shards = sum(part.last - part.first + 1 for part in view.listed("masks"))
    return f"{shards} of {view.description.plan.shards} shards answered, {view.description.plan.images} images in all"


def html(view: RunCounts, miou: float | None) -> str:
    """Render a small card in the notebook's own colours. `miou`: a fraction of 1; None = not counted."""
    space = view.space
    facts = [network_name(view.description.identity), f"{space.name}, {space.num_classes} classes", answered(view)]
    headline = "" if miou is None else f"<div style='font-size:1.6em;font-weight:600'>mIoU {percent(miou)} %</div>"
    shown = list(zip(space.classes, space.colours, strict=True))[:MAX_SWATCHES]
    swatches = "".join(
        f"<span style='display:inline-block;margin-right:.9em;white-space:nowrap'><span style='display:inline-block;"
        f"width:.8em;height:.8em;border-radius:2px;margin-right:.35em;background:rgb{colour}'></span>{escape(name)}</span>"
        for name, colour in shown
    )
    return (
        "<div style='border:1px solid #8884;border-radius:8px;padding:.8em 1em;max-width:46em'>"
        f"<div><strong>{escape(view.uri.rstrip('/').rsplit('/', 1)[-1])}</strong> "
        f"<span style='opacity:.7'>{escape(view.uri)} · {escape(state(view))}</span></div>"
        f"{headline}<div>{escape(' · '.join(fact for fact in facts if fact))}</div>"
        f"<div style='font-size:.85em;margin-top:.5em'>{swatches}</div>"
        f"<div style='font-size:.85em;opacity:.7;margin-top:.5em'><code>{escape(ASK)}</code></div></div>"
    )
