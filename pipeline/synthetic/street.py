"""One procedural street scene: an image and its label, drawn together.

Colours are drawn from ranges that overlap between classes (grey cars on grey roads, pale facades under pale skies), so that
a pixel's colour alone says little; place, shape and texture do. Label ids are Cityscapes labelIds, exact to the pixel.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

UNLABELED, EGO, STATIC = 0, 1, 4
ROAD, SIDEWALK, BUILDING, FENCE, POLE, LIGHT, SIGN = 7, 8, 11, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BICYCLE = 21, 22, 23, 24, 25, 26, 27, 33
Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: (H, W, 3) uint8 RGB and (H, W) uint8 labelIds; the same state of `rng` gives the same scene."""
    canvas = _Canvas(rng, height, width)
    horizon = height * rng.uniform(0.36, 0.5)
    vanish = width * rng.uniform(0.35, 0.65)
    _sky(canvas, horizon)
    _ground(canvas, horizon, vanish)
    for side in (-1, 1):
        _street_side(canvas, horizon, vanish, side)
    things = [_poles, _cars, _people, _cars, _people, _riders]
    for depth in np.sort(
        rng.uniform(0.04, 0.9, size=int(rng.integers(9, 17)))
    ):  # far to near: near things cover far ones
        things[int(rng.integers(len(things)))](canvas, horizon, vanish, float(depth) ** 1.5)
    if rng.random() < 0.3:
        top = height * rng.uniform(0.93, 0.97)
        canvas.polygon([(0, height), (width * 0.2, top), (width * 0.8, top), (width, height)], canvas.grey(20, 90), EGO)
    return canvas.photograph(), np.asarray(canvas.label)


class _Canvas:
    """An image and its label, drawn together."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.image = Image.new("RGB", (width, height))
        self.label = Image.new("L", (width, height), UNLABELED)
        self._image, self._label = ImageDraw.Draw(self.image), ImageDraw.Draw(self.label)

    def polygon(self, points: list[tuple[float, float]], colour: Rgb, label: int) -> None:
        self._image.polygon(points, fill=colour)
        self._label.polygon(points, fill=label)

    def ellipse(self, box: Box, colour: Rgb, label: int) -> None:
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            self._image.ellipse(box, fill=colour)
            self._label.ellipse(box, fill=label)

    def rectangle(self, box: Box, colour: Rgb, label: int) -> None:
        if box[2] >= box[0] and box[3] >= box[1]:
            self._image.rectangle(box, fill=colour)
            self._label.rectangle(box, fill=label)

    def paint(self, box: Box, colour: Rgb) -> None:
        """Paint a detail of an object that is already drawn: only in the image, not in the label."""
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            self._image.rectangle(box, fill=colour)

    def grey(self, low: float, high: float) -> Rgb:
        """Return a nearly grey colour between two levels."""
        level = self.rng.uniform(low, high)
        red, green, blue = np.clip(level + self.rng.normal(0, 9, 3), 0, 255).astype(int)
        return int(red), int(green), int(blue)

    def any_colour(self) -> Rgb:
        """Return grey half of the time, else any hue, muted as paint and plaster are."""
        if self.rng.random() < 0.5:
            return self.grey(20, 235)
        hue = self.rng.uniform(20, 220, 3)
        red, green, blue = (0.6 * hue + 0.4 * hue.mean()).astype(int)
        return int(red), int(green), int(blue)

    def photograph(self) -> np.ndarray:
        """Return the image as a camera would record it: with texture by class, light, haze, colour cast and noise."""
        rng, label = self.rng, np.asarray(self.label)
        picture = np.asarray(self.image).astype(np.float32)
        fine = rng.normal(0, 1, label.shape).astype(np.float32)
        coarse = np.kron(rng.normal(0, 1, (self.height // 4 + 1, self.width // 4 + 1)), np.ones((4, 4)))
        coarse = coarse[: self.height, : self.width].astype(np.float32)
        strength = np.full(256, 3, np.float32)
        strength[[VEGETATION, TERRAIN, ROAD, BUILDING]] = 22, 12, 6, 6
        texture = strength[label] * (0.6 * fine + 0.6 * coarse)
        picture += texture[..., None]
        light = np.linspace(rng.uniform(0.7, 1.2), rng.uniform(0.7, 1.2), self.width, dtype=np.float32)
        picture *= light[None, :, None] * rng.uniform(0.55, 1.15)
        haze = rng.uniform(0, 0.35) * np.exp(-np.abs(np.arange(self.height) / self.height - 0.42) * 7)
        picture += (200 - picture) * haze[:, None, None].astype(np.float32)
        picture *= rng.uniform(0.88, 1.12, 3).astype(np.float32)
        picture += rng.normal(0, rng.uniform(2, 7), picture.shape).astype(np.float32)
        return picture.clip(0, 255).astype(np.uint8)


def _sky(canvas: _Canvas, horizon: float) -> None:
    rng = canvas.rng
    top = np.array(rng.choice([(70, 120, 190), (150, 160, 170), (190, 195, 200), (90, 100, 125)]), float)
    bottom = np.clip(top + rng.uniform(10, 50), 0, 245)
    for y in range(int(horizon) + 1):
        mix = y / max(horizon, 1)
        red, green, blue = (top * (1 - mix) + bottom * mix).astype(int)
        canvas.rectangle((0, y, canvas.width, y), (int(red), int(green), int(blue)), SKY)
    for _ in range(int(rng.integers(0, 5))):
        x, high, size = (
            rng.uniform(0, canvas.width),
            rng.uniform(0, horizon * 0.7),
            canvas.height * rng.uniform(0.05, 0.16),
        )
        canvas.ellipse((x - 2 * size, high - size / 2, x + 2 * size, high + size / 2), canvas.grey(190, 235), SKY)


def _ground(canvas: _Canvas, horizon: float, vanish: float) -> None:
    """Draw terrain or pavement on both sides, and the road with its markings between them."""
    rng, height, width = canvas.rng, canvas.height, canvas.width
    left, right = width * rng.uniform(-0.35, 0.15), width * rng.uniform(0.85, 1.35)
    kerb = width * rng.uniform(0.12, 0.3)
    for side in (0, 1):
        outer = TERRAIN if rng.random() < 0.5 else SIDEWALK
        colour: Rgb = (95, 115, 60) if outer == TERRAIN and rng.random() < 0.6 else canvas.grey(90, 170)
        edge = side * width
        canvas.polygon([(vanish, horizon), (edge, horizon), (edge, height), (vanish, height)], colour, outer)
    pavement = canvas.grey(100, 180)
    canvas.polygon(
        [(vanish - 2, horizon), (vanish + 2, horizon), (right + kerb, height), (left - kerb, height)],
        pavement,
        SIDEWALK,
    )
    canvas.polygon(
        [(vanish - 1, horizon), (vanish + 1, horizon), (right, height), (left, height)], canvas.grey(60, 135), ROAD
    )
    for near, far in ((1.0, 0.75), (0.6, 0.45), (0.36, 0.28), (0.22, 0.17)):  # dashes, in depth
        middle = (left + right) / 2
        xs = [vanish + (middle - vanish) * t for t in (near, far)]
        ys = [horizon + (height - horizon) * t for t in (near, far)]
        half = [width * 0.012 * t for t in (near, far)]
        canvas.polygon(
            [(xs[0] - half[0], ys[0]), (xs[0] + half[0], ys[0]), (xs[1] + half[1], ys[1]), (xs[1] - half[1], ys[1])],
            canvas.grey(180, 235),
            ROAD,
        )


def _street_side(canvas: _Canvas, horizon: float, vanish: float, side: int) -> None:
    """Draw the facades, trees and fences that line one side, from far to near."""
    rng, height, width = canvas.rng, canvas.height, canvas.width
    end = width * (1.05 if side > 0 else -0.05)
    edges = np.concatenate([[0.06], np.sort(rng.uniform(0.1, 0.95, int(rng.integers(2, 6)))), [1.0]])
    for near, far in zip(edges[1:], edges[:-1], strict=True):
        x0, x1 = vanish + (end - vanish) * far, vanish + (end - vanish) * near
        base0, base1 = horizon + (height - horizon) * 0.42 * far, horizon + (height - horizon) * 0.42 * near
        kind = rng.random()
        if kind < 0.62:
            storeys = rng.uniform(0.6, 1.7)
            roof0, roof1 = horizon - horizon * storeys * far - 2, horizon - horizon * storeys * near - 2
            colour = canvas.any_colour()
            canvas.polygon([(x0, base0), (x0, roof0), (x1, roof1), (x1, base1)], colour, BUILDING)
            _windows(canvas, (x0, x1), (roof0, roof1), (base0, base1))
        elif kind < 0.9:
            for _ in range(int(rng.integers(2, 5))):
                _tree(
                    canvas,
                    rng.uniform(min(x0, x1), max(x0, x1)),
                    (base0 + base1) / 2,
                    horizon * rng.uniform(0.4, 1.0) * near,
                )
        else:
            tall = (height - horizon) * 0.3 * near
            canvas.polygon(
                [(x0, base0), (x0, base0 - tall * far / near), (x1, base1 - tall), (x1, base1)],
                canvas.grey(90, 200),
                FENCE,
            )
            for x in np.arange(min(x0, x1), max(x0, x1), 4):
                canvas.paint((x, min(base0, base1) - tall, x + 1, max(base0, base1)), canvas.grey(40, 90))


def _windows(canvas: _Canvas, xs: tuple[float, float], roofs: tuple[float, float], bases: tuple[float, float]) -> None:
    rng, dark = canvas.rng, canvas.grey(20, 110)
    columns, rows = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    for column in range(columns):
        t = (column + 0.3) / columns
        x, step = xs[0] + (xs[1] - xs[0]) * t, abs(xs[1] - xs[0]) / columns * 0.4
        top, bottom = (a + (b - a) * t for a, b in (roofs, bases))
        for row in range(rows):
            y = top + (bottom - top) * (row + 0.3) / rows
            canvas.paint((x, y, x + step, y + (bottom - top) / rows * 0.45), dark)


def _tree(canvas: _Canvas, x: float, base: float, size: float) -> None:
    rng = canvas.rng
    canvas.rectangle((x - size * 0.04, base - size * 0.6, x + size * 0.04, base), (70, 55, 45), VEGETATION)
    green = rng.uniform(45, 115)
    for _ in range(6):
        dx, dy, r = rng.normal(0, size * 0.18), rng.normal(0, size * 0.16), size * rng.uniform(0.16, 0.3)
        shade = rng.uniform(0.7, 1.2)
        colour = int(green * 0.75 * shade), int(green * shade), int(green * 0.5 * shade)
        canvas.ellipse(
            (x + dx - r, base - size * 0.75 + dy - r, x + dx + r, base - size * 0.75 + dy + r), colour, VEGETATION
        )


def _place(canvas: _Canvas, horizon: float, vanish: float, depth: float, lateral: float) -> tuple[float, float, float]:
    """Return the foot point (x, y) and the height of a person there, at a depth in 0 (far) .. 1 (near)."""
    y = horizon + (canvas.height - horizon) * (0.08 + 0.8 * depth)
    x = vanish + lateral * canvas.width * (0.05 + 0.6 * depth)
    return x, y, canvas.height * (0.05 + 0.5 * depth)


def _cars(canvas: _Canvas, horizon: float, vanish: float, depth: float) -> None:
    rng = canvas.rng
    x, y, person = _place(canvas, horizon, vanish, depth, rng.uniform(-0.75, 0.75))
    truck = rng.random() < 0.15
    label, tall = (TRUCK, person * 1.7) if truck else (CAR, person * 0.85)
    wide, colour = person * rng.uniform(1.0, 1.9), canvas.any_colour()
    body, roof = y - tall * 0.55, y - tall
    canvas.rectangle((x - wide / 2, body if not truck else roof, x + wide / 2, y - tall * 0.1), colour, label)
    if not truck:
        canvas.polygon(
            [(x - wide * 0.42, body), (x - wide * 0.3, roof), (x + wide * 0.3, roof), (x + wide * 0.42, body)],
            colour,
            label,
        )
    canvas.paint((x - wide * 0.27, roof + tall * 0.08, x + wide * 0.27, body - tall * 0.04), canvas.grey(25, 120))
    for wheel in (-0.32, 0.32):
        r = tall * 0.14
        canvas.ellipse((x + wide * wheel - r, y - 2 * r, x + wide * wheel + r, y), canvas.grey(10, 45), label)
    for lamp in (-0.44, 0.38):
        canvas.paint((x + wide * lamp, body + tall * 0.08, x + wide * (lamp + 0.07), body + tall * 0.18), (220, 60, 40))


def _body(canvas: _Canvas, x: float, y: float, tall: float, label: int) -> None:
    coat, legs, skin = canvas.any_colour(), canvas.grey(15, 90), (int(canvas.rng.integers(90, 225)), 150, 120)
    wide = tall * 0.28
    canvas.rectangle((x - wide * 0.32, y - tall * 0.5, x + wide * 0.32, y), legs, label)
    canvas.rectangle((x - wide * 0.5, y - tall * 0.84, x + wide * 0.5, y - tall * 0.42), coat, label)
    canvas.ellipse((x - tall * 0.075, y - tall, x + tall * 0.075, y - tall * 0.82), skin, label)


def _people(canvas: _Canvas, horizon: float, vanish: float, depth: float) -> None:
    side = canvas.rng.choice([-1.0, 1.0])
    x, y, tall = _place(canvas, horizon, vanish, depth, side * canvas.rng.uniform(0.5, 1.1))
    for _ in range(int(canvas.rng.integers(1, 4))):
        _body(canvas, x + canvas.rng.normal(0, tall * 0.4), y, tall * canvas.rng.uniform(0.9, 1.1), PERSON)


def _riders(canvas: _Canvas, horizon: float, vanish: float, depth: float) -> None:
    x, y, tall = _place(canvas, horizon, vanish, depth, canvas.rng.uniform(-0.7, 0.7))
    frame, r = canvas.any_colour(), tall * 0.2
    for wheel in (-1.3, 1.3):
        canvas.ellipse((x + wheel * r - r, y - 2 * r, x + wheel * r + r, y), canvas.grey(15, 60), BICYCLE)
    canvas.rectangle((x - 1.3 * r, y - 1.4 * r, x + 1.3 * r, y - 1.0 * r), frame, BICYCLE)
    _body(canvas, x, y - tall * 0.2, tall * 0.9, RIDER)


def _poles(canvas: _Canvas, horizon: float, vanish: float, depth: float) -> None:
    rng = canvas.rng
    x, y, person = _place(canvas, horizon, vanish, depth, rng.choice([-1.0, 1.0]) * rng.uniform(0.75, 1.15))
    tall, thin = person * rng.uniform(1.5, 2.6), max(1.0, person * 0.045)
    canvas.rectangle((x - thin, y - tall, x + thin, y), canvas.grey(60, 170), POLE)
    half, top = person * 0.22, y - tall
    if rng.random() < 0.5:
        canvas.rectangle((x - half / 2, top, x + half / 2, top + 3 * half), canvas.grey(15, 60), LIGHT)
        lit = int(rng.integers(3))
        colour: Any = ((230, 50, 40), (240, 180, 40), (60, 210, 110))[lit]
        canvas.paint((x - half / 4, top + half * (lit + 0.25), x + half / 4, top + half * (lit + 0.75)), colour)
    else:
        colour = [(200, 40, 45), (40, 80, 190), (235, 235, 235), (240, 200, 40)][int(rng.integers(4))]
        if rng.random() < 0.5:
            canvas.ellipse((x - half, top, x + half, top + 2 * half), colour, SIGN)
        else:
            canvas.polygon([(x, top), (x + half, top + 2 * half), (x - half, top + 2 * half)], colour, SIGN)
