"""Write infra/docs/config.md, the reference of every config key, from the schemas: `python -m tests.config_reference`."""

from pipeline.config.describe import KeyEntry, detail, overview
from tests.doc_blocks import DOCS

PAGE = DOCS / "config.md"
_HEAD = """# Config keys

Every key of the three kinds of config, as `maskmill config train`, `segment` and `tune` print them.
(Made from the code by `python -m tests.config_reference`; a test compares.)
"""
_TITLES = {"train": "Training", "segment": "Segmentation", "tune": "A search's space"}


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for kind, title in _TITLES.items():
        entries = overview(kind)
        parts.append(f"## {title}\n\n{_table(entries)}")
        for entry in entries:
            for choice in detail(kind, entry.path)[1:]:
                if not choice.chosen or choice.path.rpartition(".")[0] != entry.path:
                    continue
                keys = [one for one in detail(kind, choice.path)[1:] if not one.path.endswith(".name")]
                name = f"{entry.path}: {choice.path.removeprefix(entry.path + '.')}"
                parts.append(f"### {kind}, {name}\n\n{choice.doc}\n{_table(keys) if keys else ''}")
    return "\n".join(parts)


def _table(entries: list[KeyEntry]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for entry in entries:
        unit = f" [{entry.unit}]" if entry.unit else ""
        default = "" if entry.default == "required" else entry.default
        kind = "one of the sections below" if entry.kind.startswith("section with name") else entry.kind
        key = f"**`{entry.key}`** (required)" if entry.required else f"`{entry.key}`"
        rows.append(
            f"| {key} | {_cell(kind + unit)} | {_cell(f'`{default}`' if default else '')} | {_cell(entry.doc)} |"
        )
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    """Inside a code span `<` stands for itself; elsewhere it would begin a tag."""
    pieces = text.replace("|", "\\|").split("`")
    return "`".join(piece if number % 2 else piece.replace("<", "&lt;") for number, piece in enumerate(pieces))


if __name__ == "__main__":
    PAGE.write_text(page())
