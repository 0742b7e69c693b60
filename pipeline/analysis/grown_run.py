"""Open each generation of an extended run as a run of its own, with only the images that it answered."""

from pipeline import storage
from pipeline.analysis.many_runs import RunsView, of_members, run_names
from pipeline.analysis.run_view import RunView, open_run
from pipeline.runs import generations
from pipeline.runs.generations import committed_name, generation_of


def open_generations(uri: str) -> RunsView:
    """Open the generations of a run that `maskmill extend` extended, each with the rows that it wrote, as they were then.

    A generation without masks of its own is left out, such as one in which images only disappeared.

    Raises:
        UserError: there is no run, or it is not finished.
    """
    uri = storage.absolute(uri)
    views = [open_run(uri, one.number) for one in generations(uri)]
    members = {f"{run_names([uri])[0]}, generation {view.generation}": _answered_then(view) for view in views}
    return of_members({name: member for name, member in members.items() if member.parts("masks")})


def _answered_then(view: RunView) -> RunView:
    """Return the view of a generation, restricted to the parts that it wrote itself."""
    kept = {
        kind: [part for part in view.listed(kind) if generation_of(part) == view.generation]
        for kind in ("masks", "rejects")
    }
    state = view.state
    if state is not None:
        rows = {kind: sum(state.parts[committed_name(part)].rows for part in parts) for kind, parts in kept.items()}
        state = state.model_copy(update={"rows": rows["masks"], "rejects": rows["rejects"]})
    return RunView(view.uri, view.description, view.space, state, _parts=kept)
