"""The generations of a run that grew, each as a run of what it answered."""

from pipeline import storage
from pipeline.analysis.many_runs import RunsView, of_members, run_names
from pipeline.analysis.run_view import RunView, open_run
from pipeline.runs import generations
from pipeline.runs.generations import committed_name, generation_of


def open_generations(uri: str) -> RunsView:
    """The generations of a run that `maskmill extend` made grow, each with the rows that it answered, as it answered them.

    A generation that answered nothing is left out: one that images were only gone in.

    Raises:
        UserError: there is no run, or it is not finished.
    """
    uri = storage.absolute(uri)
    views = [open_run(uri, one.number) for one in generations(uri)]
    members = {f"{run_names([uri])[0]}, generation {view.generation}": _answered_then(view) for view in views}
    return of_members({name: member for name, member in members.items() if member.parts("masks")})


def _answered_then(view: RunView) -> RunView:
    """A view of a generation, of what it answered itself."""
    kept = {
        kind: [part for part in view.listed(kind) if generation_of(part) == view.generation]
        for kind in ("masks", "rejects")
    }
    state = view.state
    if state is not None:
        rows = {kind: sum(state.parts[committed_name(part)].rows for part in parts) for kind, parts in kept.items()}
        state = state.model_copy(update={"rows": rows["masks"], "rejects": rows["rejects"]})
    return RunView(view.uri, view.description, view.space, state, _parts=kept)
