"""Numbers to inline SVG with labels around it: no plotting library, no outside resource.

The drawing stretches to whatever width the page has, while text stays text: labels are HTML placed in percent, and
lines keep their width by `vector-effect`. So one chart reads the same on a phone, on a laptop and in print.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

MAX_POINTS = 400
"""A chart is at most about a thousand pixels wide; more points than this are averaged in groups."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart. `style` is its class in the page: `a` or `b` for its colour, `dots` to mark every point,
    `rings` to mark them hollow, `dash` for a broken line: so that two lines differ without their colour.
    """

    name: str
    points: Sequence[Point]
    style: str = "a"


@dataclass(frozen=True, slots=True)
class _Frame:
    """The window of values that a chart shows, in percent of its box."""

    left: float
    right: float
    low: float
    high: float

    def place(self, point: Point) -> Point:
        across = 100 * (point[0] - self.left) / (self.right - self.left)
        down = 100 - 100 * (point[1] - self.low) / (self.high - self.low)
        return round(across, 2), round(down, 2)


def line_chart(series: Sequence[Series], *, from_zero: bool = False, smooth: bool = False) -> Markup:
    """All series that have points in one chart; empty where none has. `smooth` lays a running mean over faint lines."""
    drawn = [Series(line.name, thin(line.points), line.style) for line in series if line.points]
    if not drawn:
        return Markup("")
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    y_ticks = nice_ticks(min(0.0, *ys) if from_zero else min(ys), max(ys))
    frame = _Frame(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, y_ticks[0], y_ticks[-1])
    rules = "".join(f'<path class="rule" d="M0 {frame.place((frame.left, tick))[1]}H100"/>' for tick in y_ticks)
    paths = "".join(_paths(line, frame, smooth) for line in drawn)
    name = escape(" and ".join(line.name for line in drawn))
    return Markup(
        f'<div class="plot" data-series="{_hover(drawn, frame)}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{name}">{rules}{paths}</svg>'
        f"{_labels(frame, y_ticks)}<i></i><output></output></div>"
    )


def _labels(frame: _Frame, y_ticks: Sequence[float]) -> str:
    beside = [f'<b style="top:{frame.place((frame.left, tick))[1]}%">{number(tick)}</b>' for tick in y_ticks]
    below = [
        f'<s style="left:{frame.place((tick, frame.low))[0]}%">{number(tick)}</s>'
        for tick in nice_ticks(frame.left, frame.right)
        if frame.left <= tick <= frame.right
    ]
    return "".join(beside + below)


def _paths(line: Series, frame: _Frame, smooth: bool) -> str:
    """The line, a faint one below its running mean where it is noisy, and dots as strokes of no length."""
    marked = "dots" in line.style or "rings" in line.style
    mean = running_mean(line.points) if smooth and not marked else line.points
    parts = [_path(mean, frame, f"line {line.style}")]
    if mean is not line.points:
        parts.insert(0, _path(line.points, frame, f"line faint {line.style}"))
    if marked or len(line.points) == 1:
        dots = "".join("M{} {}h0".format(*frame.place(point)) for point in line.points)
        parts.append(f'<path class="dot {line.style}" d="{dots}"/>')
        if "rings" in line.style:
            parts.append(f'<path class="dot hole" d="{dots}"/>')
    return "".join(parts)


def swatch(style: str) -> Markup:
    """A short piece of a line of this style, for the legend."""
    marks = f'<path class="dot {style}" d="M50 50h0"/>' if "dots" in style or "rings" in style else ""
    marks += '<path class="dot hole" d="M50 50h0"/>' if "rings" in style else ""
    line = f'<path class="line {style}" d="M0 50H100"/>'
    return Markup(
        f'<svg class="swatch" viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{line}{marks}</svg>'
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """A point of a calibration curve: predicted and observed probability, the observed one's interval, its weight."""

    predicted: float
    observed: float
    low: float
    high: float
    share: float


def calibration_chart(readings: Sequence[Reading]) -> Markup:
    """Observed against predicted in the unit square, with whiskers and the diagonal; empty without readings."""
    if not readings:
        return Markup("")
    frame, ticks = _Frame(0.0, 1.0, 0.0, 1.0), [0.0, 0.25, 0.5, 0.75, 1.0]
    rules = "".join(f'<path class="rule" d="M0 {100 * tick:g}H100"/>' for tick in ticks)
    rules += '<path class="diagonal" d="M0 100L100 0"/>'
    whiskers = "".join(
        "M{} {}V{}".format(*frame.place((point.predicted, point.low)), frame.place((0, point.high))[1])
        for point in readings
    )
    line = Series("observed", [(point.predicted, point.observed) for point in readings], "a dots")
    hover = [
        [
            "observed",
            [
                [*frame.place((point.predicted, point.observed)), f"{point.predicted:.2f}", f"{point.observed:.2f}"]
                for point in readings
            ],
        ]
    ]
    shown = escape(json.dumps(hover, separators=(",", ":")))
    return Markup(
        f'<div class="plot square" data-at="predicted" data-series="{shown}">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="observed against predicted probability">{rules}<path class="whisker" d="{whiskers}"/>'
        f"{_paths(line, frame, False)}</svg>{_labels(frame, ticks)}<i></i><output></output></div>"
    )


def _path(points: Sequence[Point], frame: _Frame, style: str) -> str:
    corners = "L".join("{} {}".format(*frame.place(point)) for point in points)
    return f'<path class="{style}" d="M{corners}"/>'


def _hover(drawn: Sequence[Series], frame: _Frame) -> str:
    """What the page's script shows under the pointer: places in percent and labels."""
    shown = [
        [line.name, [[*frame.place(point), number(point[0]), number(point[1])] for point in line.points]]
        for line in drawn
    ]
    return str(escape(json.dumps(shown, separators=(",", ":"), ensure_ascii=False)))


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> Sequence[Point]:
    """At most `most` points: each the mean of its group, the first and the last kept as they are.

    >>> thin([(float(i), float(i)) for i in range(9)], 5)
    [(0.0, 0.0), (1.5, 1.5), (3.5, 3.5), (6.0, 6.0), (8.0, 8.0)]
    """
    if len(points) <= most:
        return points
    inner, groups = points[1:-1], most - 2
    bounds = [len(inner) * index // groups for index in range(groups + 1)]
    means = [
        (sum(x for x, _ in inner[a:b]) / (b - a), sum(y for _, y in inner[a:b]) / (b - a))
        for a, b in itertools.pairwise(bounds)
    ]
    return [points[0], *means, points[-1]]


def running_mean(points: Sequence[Point]) -> Sequence[Point]:
    """The mean of each point's neighbourhood, a twentieth of the line wide; a short line is returned as it is."""
    if len(points) < 20:
        return points
    reach = len(points) // 40 + 1
    means = []
    for index, (x, _) in enumerate(points):
        # The window shrinks on both sides near an end, so that it stays centred and the ends stay true.
        near = min(reach, index, len(points) - 1 - index)
        window = points[index - near : index + near + 1]
        means.append((x, sum(y for _, y in window) / len(window)))
    return means


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values that cover low to high, about `count` steps apart.

    >>> nice_ticks(0.13, 2.9)
    [0.0, 1.0, 2.0, 3.0]
    >>> nice_ticks(5.0, 5.0)
    [4.5, 4.75, 5.0, 5.25, 5.5]
    """
    if high - low <= abs(high) * 1e-9:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def number(value: float) -> str:
    """A number for people: about four digits, thousands apart, small ones with an exponent.

    >>> [number(v) for v in (0.0, 2e-5, 0.03125, 2.34567, 812, 51234.0, 3.4e7)]
    ['0', '2e-5', '0.03125', '2.346', '812', '51,234', '34 M']
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e9:.4g} B" if size >= 1e9 else f"{value / 1e6:.4g} M"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.3g}".replace("e-0", "e-")
