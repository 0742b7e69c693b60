"""Small charts as inline SVG in the report's colours: no script, and text that a screen reader is given as one sentence."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 280  # of the whole picture, in its own units; it is scaled to its place
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 46  # around the plot

Tick = tuple[float, str]  # place (0 to 1) and text


@dataclass(frozen=True)
class Plot:
    """The area between the axes: places are shares of it, from the left and from the bottom."""

    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    words: str  # what the picture shows, for who cannot see it

    def x(self, share: float) -> float:
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def bar(self, left: float, right: float, low: float, high: float, colour: str, title: str = "") -> str:
        """A rectangle between shares; `colour` is a variable of the style sheet."""
        hover = f"<title>{escape(title)}</title>" if title else ""
        return (
            f'<rect x="{self.x(left):.1f}" y="{self.y(high):.1f}" width="{max(self.x(right) - self.x(left), 0.5):.1f}" '
            f'height="{max(self.y(low) - self.y(high), 0):.1f}" style="fill:var(--{colour})">{hover}</rect>'
        )

    def line(self, points: Sequence[tuple[float, float]], style: str) -> str:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{places}" style="fill:none;{style}"/>'

    def svg(self, body: str) -> str:
        """The whole picture."""
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.words)}">'
            f"{''.join(self._axes())}{body}</svg>"
        )

    def _axes(self) -> Iterator[str]:
        for share, text in self.y_ticks:
            y = self.y(share)
            yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:var(--line)"/>'
            yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for share, text in self.x_ticks:
            anchor = "end" if share > 0.97 else "middle"
            yield f'<text x="{self.x(share):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="{anchor}">{escape(text)}</text>'
        yield f'<text x="{self.x(0.5):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x_label)}</text>'
        turned = f"translate(12 {self.y(0.5):.1f}) rotate(-90)"
        yield f'<text transform="{turned}" text-anchor="middle">{escape(self.y_label)}</text>'


def percent_ticks(step: float = 0.25) -> list[Tick]:
    """0 to 100 in steps."""
    return [(k * step, f"{100 * k * step:.0f}") for k in range(round(1 / step) + 1)]


def scale(top: float, steps: int = 4) -> tuple[float, list[Tick]]:
    """A round number of at least `top`, and ticks from 0 to it."""
    if top <= 0:
        return 1.0, [(0.0, "0")]
    unit = 10 ** math.floor(math.log10(top / steps))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit * steps >= top * 0.999)
    count = math.ceil(top / step - 1e-9)
    return count * step, [(k / count, number(k * step)) for k in range(count + 1)]


def number(value: float) -> str:
    """Short: `12 k`, `3.5 M`, `0.25`."""
    for unit, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{sign}"
    return f"{value:.3g}"


def share_bars(names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], x_label: str, words: str) -> str:
    """Horizontal bars of shares of 1, in percent, one row a name; of each name one bar a series.

    Args:
        series: colour variable and a value for each name; NaN has no bar.
    """
    row, left = 14 * len(series) + 10, 10 + 7 * max((len(name) for name in names), default=0)
    height, room = row * len(names) + BOTTOM, WIDTH - left - 52
    body = []
    for place, name in enumerate(names):
        top = place * row + 5
        body.append(f'<text x="{left - 8}" y="{top + row / 2 - 1:.1f}" text-anchor="end">{escape(name)}</text>')
        for place_of_series, (colour, values) in enumerate(series):
            value, y = values[place], top + 14 * place_of_series
            if not math.isnan(value):
                body.append(
                    f'<rect x="{left}" y="{y}" width="{room * value:.1f}" height="11" rx="1" style="fill:var(--{colour})"/>'
                    f'<text x="{left + room * value + 5:.1f}" y="{y + 10}">{100 * value:.1f}</text>'
                )
    for share, text in percent_ticks():
        body.append(f'<text x="{left + room * share:.1f}" y="{height - 26}" text-anchor="middle">{text}</text>')
    body.append(f'<text x="{left + room / 2:.1f}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(words)}">'
    return head + "".join(body) + "</svg>"
