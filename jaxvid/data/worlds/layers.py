"""Textured layers under a moving camera: pan, zoom or roll, with parallax."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Complex, Float, Int, UInt8
from ml_collections import ConfigDict

from jaxvid.config import ABOVE_0, key
from jaxvid.data.clips import Clip
from jaxvid.data.worlds import texture
from jaxvid.data.worlds.world import COUNTS, choose_colours, listed, world

LABELS = ("pan", "zoom", "roll")
ZOOM = 0.4  # largest logarithm of the magnification of the nearest layer
MOVES = {
    "pan": ("panning over", "gliding past"),
    "zoom": ("zooming in and out over", "going to and fro before"),
    "roll": ("rolling over", "turning around its axis above"),
}


@world(
    "layers",
    labels=LABELS,
    count=key((2, 3), COUNTS, "number of layers"),
    speed=key(0.5, ABOVE_0, "speed of the camera, in sides, or radians, per second"),
)
def layers(rng: np.random.Generator, data: ConfigDict, frames: int) -> Clip:
    """Layers at different depths, the far ones slower; the label says how the camera moves.

    Truth: `camera`, for the plane of the nearest layer.
    """
    c = data.layers
    label, count = int(rng.integers(3)), int(rng.integers(c.count[0], c.count[1] + 1))
    colours = choose_colours(rng, data, count)
    noises = [texture.draw_noise(rng) for _ in range(count)]
    depths = np.linspace(1, 0.35, count)[::-1]  # from the far layer to the near one
    time = np.arange(frames) / data.fps
    heading, turning, start = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]), rng.uniform(0, 2, 2)
    still = np.zeros(frames)
    way = c.speed * time
    pan = way[:, None] * np.array([np.cos(heading), np.sin(heading)])
    moves = {
        "pan": (pan, still, still),
        "zoom": (0 * pan, ZOOM * np.sin(turning * way / ZOOM), still),
        "roll": (0 * pan, still, turning * way),
    }
    pan, zoom, roll = moves[LABELS[label]]
    names = [colour.name for colour in colours]
    ways = MOVES[LABELS[label]]
    what = f"{listed(names)} pattern{'s' * (count > 1)}"
    return Clip(
        time.astype(np.float32),
        functools.partial(
            _render, noises, [colour.rgb for colour in colours], depths, data.size,
            pan + start, zoom, roll,
        ),
        label=label,
        caption=f"a camera {ways[rng.integers(len(ways))]} {what}",
        truth={"camera": _camera(pan + start, zoom, roll).astype(np.float32)},
    )  # fmt: skip


def _camera(
    pan: Float[np.ndarray, "N 2"], zoom: Float[np.ndarray, " N"], roll: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N 3 3"]:
    """Maps the plane of the nearest layer to the image: e^zoom R(roll) (y - pan) + 1/2."""
    camera = np.zeros((len(zoom), 3, 3))
    cos, sin = np.exp(zoom) * np.cos(roll), np.exp(zoom) * np.sin(roll)
    camera[:, :2, :2] = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), -1, 0)
    camera[:, :2, 2] = 0.5 - np.einsum("nij,nj->ni", camera[:, :2, :2], pan)
    camera[:, 2, 2] = 1
    return camera


def _render(
    noises: Sequence[Complex[np.ndarray, "h w"]],
    colours: Sequence[UInt8[np.ndarray, " 3"]],
    depths: Float[np.ndarray, " S"],
    size: int,
    pan: Float[np.ndarray, "N 2"],
    zoom: Float[np.ndarray, " N"],
    roll: Float[np.ndarray, " N"],
    frames: Int[np.ndarray, " T"],
) -> UInt8[np.ndarray, "T H W 3"]:
    """The far layer fills the picture; the others have holes. Each has two tones."""
    video = np.zeros((len(frames), size, size, 3), np.uint8)
    for s, (noise, colour, depth) in enumerate(zip(noises, colours, depths, strict=True)):
        values, light = texture.make_tile(noise, size), colour * np.float32(0.4 + 0.6 * depth)
        paint = light * (0.5 + 0.5 * texture.above(values, 1.0 if s else 0.0))
        cover = texture.above(values, 0.5 if s else -np.inf)
        # Red, green and blue are those that cover the picture, so that they blend right.
        tile = np.rint(np.concatenate([cover * paint, 255 * cover], -1)).astype(np.uint8)
        tiles = np.tile(tile, (3, 3, 1))
        back = np.linalg.inv(_camera(depth * pan[frames], depth * zoom[frames], roll[frames]))
        for picture, to_plane in zip(video, back, strict=True):
            layer = texture.in_picture(tiles, to_plane, size)
            if s:
                left = cv2.merge([255 - layer[..., 3]] * 3)
                picture[:] = cv2.add(cv2.multiply(picture, left, scale=1 / 255), layer[..., :3])
            else:
                picture[:] = layer[..., :3]
    return video
