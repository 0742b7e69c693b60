"""The facts about a run at the top of the report."""

from datetime import datetime

from pipeline import storage
from pipeline.analysis.card import network_name, temperature
from pipeline.analysis.run_view import RunView


def facts_of(view: RunView) -> list[tuple[str, str]]:
    """Return name and value of each fact; those without a value are left out."""
    info, config = view.description, view.description.config
    corpus, split = config.get("corpus") or {}, config.get("split")
    images = storage.without_secrets(str(corpus.get("images", "")))
    lines = [
        ("network", network_name(info.identity)),
        ("temperature", f"{temperature(view):g}" if temperature(view) != 1 else ""),
        ("checkpoint", storage.without_secrets(str(config.get("checkpoint") or ""))),
        ("corpus", f"{images}, split {split}" if split else images),
        ("classes", f"{view.space.name}, {view.space.num_classes} classes"),
        ("begun", f"{info.created[:16].replace('T', ' ')} UTC"),
        ("finished", finished(view)),
        ("machine", machine(view)),
        ("version", version(view)),
    ]
    return [(name, value) for name, value in lines if value]


def finished(view: RunView) -> str:
    """Say when the run was finished, with the time that it took or the generation; `not yet` if it is not finished."""
    end = view.finished()
    if end is None:
        return "not yet"
    if view.generation > 1:
        return f"{end[:16].replace('T', ' ')} UTC, generation {view.generation}"
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(view.description.created)).total_seconds()
    return f"{end[:16].replace('T', ' ')} UTC, after {span(seconds)}"


def span(seconds: float) -> str:
    """Format a time as `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for unit, smaller, names in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return f"{whole} s"


def machine(view: RunView) -> str:
    """Describe the machine that began the run, and the CPUs and GPUs of its workers."""
    config = view.description.config
    actors, cpus, gpus = (config.get(key) for key in ("actors", "cpus_per_actor", "gpus_per_actor"))
    workers = ""
    if actors:
        with_gpus = f", {gpus:g} GPUs" if gpus else ""
        workers = f"{actors} workers" if actors > 1 else "one worker"
        workers += f" of {cpus:g} CPUs{with_gpus}" if cpus else ""
    return "; ".join(words for words in (view.description.machine or "", workers) if words)


def version(view: RunView) -> str:
    """Return Maskmill's version, and its commit if the code was in a repository."""
    info = view.description
    made = (info.commit or "").partition("+")
    commit = f", commit {made[0][:12]}{' with changes' if made[1] else ''}" if made[0] else ""
    return f"maskmill {info.versions.get('maskmill', '?')}{commit}"
