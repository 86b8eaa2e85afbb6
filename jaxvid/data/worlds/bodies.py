"""Rigid bodies in a box: gravity, collisions, friction and spin, simulated by pymunk."""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import pymunk
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import NOT_BELOW_0, UNIT, Rule, key
from jaxvid.data.clips import Clip
from jaxvid.data.worlds.world import (
    COUNTS,
    SHIFT,
    Backdrop,
    a,
    choose_colours,
    draw_backdrop,
    fixed_point,
    listed,
    padded,
    world,
)

LABELS = ("balls", "boxes")
ONE = {"balls": "ball", "boxes": "box"}
GRID = 3  # bodies start in different cells of a grid
STEPS = 120  # of the simulation in a second, at least
WALL = 0.5  # thickness


@world(
    "bodies",
    labels=LABELS,
    count=key(
        (2, 4),
        Rule(f"{COUNTS}, at most {GRID**2}", lambda v: COUNTS.holds(v) and v[1] <= GRID**2),
        "number of bodies",
    ),
    gravity=key(1.5, NOT_BELOW_0, "acceleration downwards, in sides per second squared"),
    bounce=key(0.9, UNIT, "share of the speed that a collision keeps"),
    speed=key(0.75, NOT_BELOW_0, "largest speed at the start, in sides per second"),
)
def bodies(rng: np.random.Generator, data: ConfigDict, frames: int) -> Clip:
    """Equal bodies, the balls or boxes of the label.

    Truth: `position`, `velocity`, and `contact` [N,S]: 1 for a body that touches another one or a
    wall between the frame before and the frame after, else 0.
    """
    c = data.bodies
    label, count = int(rng.integers(2)), int(rng.integers(c.count[0], c.count[1] + 1))
    colours = choose_colours(rng, data, count)
    radius, backdrop = rng.uniform(0.07, 0.11), draw_backdrop(rng, data, frames)
    space, moving = _make_space(rng, c, LABELS[label], count, radius)
    position, velocity, angle, contact = _simulate(space, moving, frames, data.fps)
    most = c.count[1]
    names, one = [colour.name for colour in colours], ONE[LABELS[label]]
    kind = a(one) if count == 1 else f"{count} {LABELS[label]}"
    captions = (
        f"{kind} bouncing in a box: {listed(names)}",
        f"{listed([a(f'{name} {one}') for name in names])} in a box",
        f"{listed(names)}: {kind} on the move",
    )
    return Clip(
        (np.arange(frames) / data.fps).astype(np.float32),
        functools.partial(
            _render, LABELS[label], [colour.rgb for colour in colours], backdrop, data.size,
            radius, position, angle,
        ),
        label=label,
        caption=captions[rng.integers(len(captions))],
        truth={
            "position": padded(position, most),
            "velocity": padded(velocity, most),
            "contact": padded(contact, most),
        },
    )  # fmt: skip


def half_side(radius: float) -> float:
    """Half the side of a box with the area of a ball."""
    return radius * math.sqrt(math.pi) / 2


def _make_space(
    rng: np.random.Generator, c: ConfigDict, kind: str, count: int, radius: float
) -> tuple[pymunk.Space, list[pymunk.Body]]:
    space = pymunk.Space()
    space.gravity = 0, c.gravity
    space.collision_slop, space.iterations = 1e-4, 20
    elasticity = math.sqrt(c.bounce)  # that of a collision is the product of two
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) + WALL * np.array(
        [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    )
    shapes = [
        pymunk.Segment(space.static_body, tuple(a), tuple(b), WALL)
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]
    reach = radius if kind == "balls" else half_side(radius) * math.sqrt(2)
    cells = rng.permutation(GRID**2)[:count]
    moving = []
    for cell in cells:
        side = 2 * half_side(radius)
        moment = (
            pymunk.moment_for_circle(1, 0, radius)
            if kind == "balls"
            else pymunk.moment_for_box(1, (side, side))
        )
        body = pymunk.Body(1, moment)
        free = 1 / (2 * GRID) - reach
        middle = (np.array(divmod(cell, GRID)) + 0.5) / GRID
        body.position = tuple(middle + rng.uniform(-free, free, 2))
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, c.speed)
        body.velocity = speed * math.cos(heading), speed * math.sin(heading)
        body.angle, body.angular_velocity = rng.uniform(0, 2 * np.pi), rng.uniform(-3, 3)
        shapes.append(
            pymunk.Circle(body, radius)
            if kind == "balls"
            else pymunk.Poly.create_box(body, (side, side))
        )
        space.add(body)
        moving.append(body)
    for shape in shapes:
        shape.elasticity, shape.friction = elasticity, 0.3
    space.add(*shapes)
    return space, moving


def _simulate(
    space: pymunk.Space, moving: Sequence[pymunk.Body], frames: int, fps: float
) -> tuple[Float[np.ndarray, "N S 2"], Float[np.ndarray, "N S 2"], np.ndarray, np.ndarray]:
    touched: set[pymunk.Body] = set()
    space.on_collision(
        post_solve=lambda arbiter, *_: touched.update(shape.body for shape in arbiter.shapes)
    )
    steps = math.ceil(STEPS / fps)
    states, contact = [], np.zeros((frames + 1, len(moving)))
    for k in range(frames):
        states.append([(*body.position, *body.velocity, body.angle) for body in moving])
        touched.clear()
        for _ in range(steps):
            space.step(1 / (fps * steps))
        contact[k + 1] = [body in touched for body in moving]
    states = np.array(states)
    return (
        states[..., :2], states[..., 2:4], states[..., 4], np.maximum(contact[1:], contact[:-1])
    )  # fmt: skip


def _render(
    kind: str,
    colours: Sequence[UInt8[np.ndarray, " 3"]],
    backdrop: Backdrop,
    size: int,
    radius: float,
    position: Float[np.ndarray, "N S 2"],
    angle: Float[np.ndarray, "N S"],
    frames: Int[np.ndarray, " T"],
) -> UInt8[np.ndarray, "T H W 3"]:
    """Bodies in two tones, so that their rotation shows."""
    video = np.empty((len(frames), size, size, 3), np.uint8)
    video[:] = backdrop(frames)
    if kind == "balls":
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        outline = radius * np.stack([np.cos(turn), np.sin(turn)], -1)
        half = outline[:25]
    else:
        outline = half_side(radius) * np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)])
        half = outline * [1, 0.5] + half_side(radius) * np.array([0, 0.5])
    cos, sin = np.cos(angle[frames]), np.sin(angle[frames])
    turned = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), (0, 1), (-2, -1))
    corners, halves = (
        fixed_point(position[frames][:, :, None] + points @ np.swapaxes(turned, -1, -2), size)
        for points in (outline, half)
    )
    for t, picture in enumerate(video):
        for s, colour in enumerate(colours):
            cv2.fillConvexPoly(picture, corners[t, s], colour.tolist(), cv2.LINE_AA, SHIFT)
            cv2.fillConvexPoly(picture, halves[t, s], (colour // 2).tolist(), cv2.LINE_AA, SHIFT)
    return video
