"""Small charts as inline SVG in the report's colours: without scripts, each described by a sentence for screen readers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 280  # of the whole picture, in SVG units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 46  # margins around the plot

Tick = tuple[float, str]  # position (0 to 1) and text


@dataclass(frozen=True)
class Plot:
    """The area between the axes; positions are fractions of it, from the left and from the bottom."""

    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    words: str  # what the picture shows, for screen readers

    def x(self, share: float) -> float:
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def bar(self, left: float, right: float, low: float, high: float, colour: str, title: str = "") -> str:
        """Draw a rectangle between fractions of the plot; `colour` is a variable of the style sheet."""
        hover = f"<title>{escape(title)}</title>" if title else ""
        return (
            f'<rect x="{self.x(left):.1f}" y="{self.y(high):.1f}" width="{max(self.x(right) - self.x(left), 0.5):.1f}" '
            f'height="{max(self.y(low) - self.y(high), 0):.1f}" style="fill:var(--{colour})">{hover}</rect>'
        )

    def line(self, points: Sequence[tuple[float, float]], style: str) -> str:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{places}" style="fill:none;{style}"/>'

    def svg(self, body: str) -> str:
        """Return the whole picture."""
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
    """Return ticks from 0 to 100 percent; `step` is a fraction of 1."""
    return [(k * step, f"{100 * k * step:.0f}") for k in range(round(1 / step) + 1)]


def scale(top: float, steps: int = 4) -> tuple[float, list[Tick]]:
    """Return a round number of at least `top`, and ticks from 0 to it."""
    if top <= 0:
        return 1.0, [(0.0, "0")]
    unit = 10 ** math.floor(math.log10(top / steps))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit * steps >= top * 0.999)
    count = math.ceil(top / step - 1e-9)
    return count * step, [(k / count, number(k * step)) for k in range(count + 1)]


def number(value: float) -> str:
    """Format a number in short: `12 k`, `3.5 M`, `0.25`."""
    for unit, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{sign}"
    return f"{value:.3g}"


def share_bars(names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], x_label: str, words: str) -> str:
    """Draw fractions of 1 as horizontal bars, in percent: one row per name, with one bar per series.

    Args:
        series: colour variable, and a value for each name; NaN has no bar.
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


COURSE_WIDTH, COURSE_HEIGHT = 260, 120
_LEFT, _RIGHT, _ABOVE, _BELOW = 46, 12, 8, 22  # margins around the plot of a course
_MIN_SPAN = 0.2  # smallest range of the axis, as a fraction of the largest value, so that small changes look small

Point = tuple[str, float, float, float]  # name of a run, value, low and high end


def course(points: Sequence[Point], show: Callable[[float], str], colour: str, words: str) -> str:
    """Draw a value from run to run, each with its interval, the newest in a colour: a chart small enough to show many.

    Args:
        points: oldest first; NaN is left out.
        show: formats a value.
        colour: variable of the style sheet.
    """
    low, high = _span([end for _, *values in points for end in values if not math.isnan(end)])

    def x(place: int) -> float:
        return _LEFT + (COURSE_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / len(points)

    def y(value: float) -> float:
        return COURSE_HEIGHT - _BELOW - (COURSE_HEIGHT - _ABOVE - _BELOW) * (value - low) / (high - low)

    shown = [(place, *point) for place, point in enumerate(points) if not math.isnan(point[1])]
    track = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, _, value, *_ in shown)
    body = [*_rules([(y(end), show(end)) for end in (low, high)], [points[0][0], points[-1][0]])]
    body.append(f'<polyline points="{track}" style="fill:none;stroke:var(--raw);stroke-width:1.5"/>')
    for place, name, value, start, end in shown:
        newest = place == len(points) - 1
        ends = [] if math.isnan(start) else [y(start), y(end)]
        title = f"{name}: {show(value)}" + (f", 95 %: {show(start)} to {show(end)}" if ends else "")
        body.append(_mark(x(place), y(value), ends, colour if newest else "soft", 4 if newest else 3, title))
    head = f'<svg class="chart" viewBox="0 0 {COURSE_WIDTH} {COURSE_HEIGHT}" role="img" aria-label="{escape(words)}">'
    return head + "".join(body) + "</svg>"


def _span(ends: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis: the lowest and the highest value, moved apart if they are close."""
    top, bottom = max(ends, default=1.0), min(ends, default=0.0)
    missing = max(_MIN_SPAN * abs(top) - (top - bottom), 0)
    low = max(bottom - missing / 2, 0) if bottom >= 0 else bottom
    high = max(low + _MIN_SPAN * abs(top), top)
    return low, high if high > low else low + 0.01


def _rules(ticks: Sequence[tuple[float, str]], names: Sequence[str]) -> Iterator[str]:
    """Draw lines at two heights with their values, and the first and the last name below."""
    for y, text in ticks:
        yield f'<line x1="{_LEFT}" x2="{COURSE_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:var(--line)"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    for x, anchor, name in zip((_LEFT, COURSE_WIDTH - _RIGHT), ("start", "end"), names, strict=True):
        yield f'<text x="{x}" y="{COURSE_HEIGHT - 6}" text-anchor="{anchor}">{escape(_short(name))}</text>'


def _mark(x: float, y: float, ends: Sequence[float], ink: str, radius: int, title: str) -> str:
    whisker = (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" '
        f'style="stroke:var(--{ink});stroke-width:2;opacity:.55"/>'
        if ends
        else ""
    )
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:var(--{ink})"><title>{escape(title)}</title></circle>'
    return whisker + dot


def _short(name: str, most: int = 16) -> str:
    """Shorten a name to its end, since that is where names of runs differ."""
    return name if len(name) <= most else "…" + name[1 - most :]
