"""Plots of the book as inline SVG: a ratio on a logarithmic axis, the chapters at a glance, and shares of the limits."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from tests.bench.rows import Peer

WIDTH, HEIGHT, EDGE = 240, 24, 8  # of a row's plot
NAMES, LINE, ROOM = 84, 22, 480  # of the plots at the top: names on the left, a line's height, the whole width


@dataclass(frozen=True)
class Axis:
    """Ratios from 10^low to 10^high."""

    low: float
    high: float

    @classmethod
    def over(cls, ratios: Iterable[float]) -> "Axis":
        """A decade to both sides of 1 at the least."""
        logs = [math.log10(ratio) for ratio in ratios]
        return cls(min(-1, *logs) - 0.1, max(1, *logs) + 0.1) if logs else cls(-1, 1)

    def x(self, ratio: float, left: float, right: float) -> float:
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return left + min(max(share, 0), 1) * (right - left)

    def ticks(self) -> list[tuple[float, str]]:
        """Powers of ten, and what is written there."""
        return [(10.0**k, f"{10.0**k:g}") for k in range(math.ceil(self.low), math.floor(self.high) + 1)]


def ratio_plot(axis: Axis, peer: Peer, median: float | None, worse: bool) -> str:
    """A dot with its interval, the line of equality, and a tick at the median of earlier runs."""
    if not peer.ratios:
        return ""
    ends = EDGE, WIDTH - EDGE
    x, low, high = (axis.x(value, *ends) for value in peer.ratios)
    middle, one = HEIGHT / 2, axis.x(1, *ends)
    words = "{:.2f} times, 95 % from {:.2f} to {:.2f}".format(*peer.ratios)
    ink = "worse" if worse else "accent" if peer.ratios[0] >= 1 else "other"
    body = [_line(axis.x(tick, *ends), 0, HEIGHT, "line") for tick, _ in axis.ticks()]
    body += [
        _line(one, 0, HEIGHT, "soft"),
        _along(one, x, middle, f"stroke:var(--{ink});stroke-width:3;opacity:.35"),
        _along(low, high, middle, f"stroke:var(--{ink});stroke-width:2"),
    ]
    if median is not None:
        words += f"; the median of earlier runs is {median:.2f}"
        body.append(_line(axis.x(median, *ends), 4, HEIGHT - 4, "ink"))
    body.append(f'<circle cx="{x:.1f}" cy="{middle}" r="4.5" style="fill:var(--{ink})"/>')
    return _svg(WIDTH, HEIGHT, words, body)


def axis_plot(axis: Axis) -> str:
    """The numbers above a column of such plots."""
    texts = [
        f'<text x="{axis.x(tick, EDGE, WIDTH - EDGE):.1f}" y="11" text-anchor="middle">{text}</text>'
        for tick, text in axis.ticks()
    ]
    return _svg(WIDTH, 14, "ratio, logarithmic", texts)


def glance(axis: Axis, chapters: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """A line of dots for each chapter: its ratios, each with a title."""
    left, right, below = NAMES + EDGE, ROOM - EDGE, LINE * len(chapters)
    body = []
    for tick, text in axis.ticks():
        x = axis.x(tick, left, right)
        body.append(_line(x, 0, below, "soft" if tick == 1 else "line"))
        body.append(f'<text x="{x:.1f}" y="{below + 15}" text-anchor="middle">{text}</text>')
    for place, (chapter, ratios) in enumerate(chapters):
        y = LINE * (place + 0.5)
        body.append(f'<text x="{NAMES - 4}" y="{y + 4}" text-anchor="end">{escape(chapter)}</text>')
        for title, ratio in ratios:
            ink = "accent" if ratio >= 1 else "other"
            body.append(
                f'<circle cx="{axis.x(ratio, left, right):.1f}" cy="{y}" r="5" style="fill:var(--{ink});opacity:.6">'
                f"<title>{escape(title)}: {ratio:.2f}</title></circle>"
            )
    words = "Ratios to the peers by chapter, on a logarithmic axis; right of 1 ours is better."
    return _svg(ROOM, below + 20, words, body)


def shares(rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar for each row that has a limit, its share in percent, its name above it; the full width is the limit itself."""
    step, room, body = 32, ROOM - 52, list[str]()
    for place, (name, share, kind) in enumerate(rows):
        y, width = step * place, room * min(share, 1)
        body += [
            f'<text x="0" y="{y + 12}">{escape(name)}</text>',
            f'<rect x="0" y="{y + 16}" width="{room}" height="8" style="fill:var(--tint)"/>',
            f'<rect x="0" y="{y + 16}" width="{max(width, 1):.1f}" height="8" style="fill:var(--{kind})"/>',
            f'<text x="{room + 6}" y="{y + 24}">{percent(share)}</text>',
        ]
    return _svg(ROOM, step * len(rows), "Share of its limit that each row reaches, in percent.", body)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def _line(x: float, top: float, bottom: float, ink: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" style="stroke:var(--{ink})"/>'


def _along(left: float, right: float, y: float, style: str) -> str:
    return f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" style="{style}"/>'


def _svg(width: float, height: float, words: str, body: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(words)}">'
    return head + "".join(body) + "</svg>"
