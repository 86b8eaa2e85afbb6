"""Random textures that repeat without an edge: smooth noise, cut into regions at thresholds."""

import cv2
import numpy as np
from jaxtyping import Complex, Float, Float32, UInt8

TILE = 2.0  # sides of the picture after which a texture repeats
WAVES = 9  # most waves along a side of the tile


def draw_noise(rng: np.random.Generator) -> Complex[np.ndarray, "h w"]:
    """The spectrum of smooth noise with mean 0 and variance 1: waves of random phase."""
    across, down = np.arange(WAVES + 1), np.fft.fftfreq(2 * WAVES + 1, 1 / (2 * WAVES + 1))
    length = np.hypot(down[:, None], across)
    power = np.where((length >= 2) & (length <= WAVES), np.maximum(length, 1) ** -3.0, 0)
    power[:, 1:] *= 2  # irfft2 adds the waves of -across
    amplitude = np.where(across, 0.5, 1) * np.sqrt(2 * power / power.sum())
    return amplitude * np.exp(1j * rng.uniform(0, 2 * np.pi, length.shape))


def make_tile(noise: Complex[np.ndarray, "h w"], size: int) -> Float32[np.ndarray, "n n"]:
    """The noise in a tile, for pictures of `size` pixels."""
    n = max(round(TILE * size), 2 * WAVES + 2)
    spectrum = np.zeros((n, n // 2 + 1), complex)
    spectrum[: WAVES + 1, : WAVES + 1] = noise[: WAVES + 1]
    spectrum[-WAVES:, : WAVES + 1] = noise[-WAVES:]
    return (n * n * np.fft.irfft2(spectrum, (n, n))).astype(np.float32)


def above(values: Float32[np.ndarray, "n n"], threshold: float) -> Float32[np.ndarray, "n n 1"]:
    """1 where a tile is above a threshold, 0 where it is below, with an edge of about a pixel."""
    steepness = np.float32(len(values) / TILE / 12)
    return ((values - np.float32(threshold)) * steepness + 0.5).clip(0, 1)[..., None]


def at_points(
    tile: UInt8[np.ndarray, "n n c"], points: Float32[np.ndarray, "H W 2"]
) -> UInt8[np.ndarray, "H W c"]:
    """The texture at points (x, y) in sides of the picture, which lie in its tile: [0, TILE]."""
    return cv2.remap(tile, points * np.float32(len(tile) / TILE), None, cv2.INTER_LINEAR)


def in_picture(
    tiles: UInt8[np.ndarray, "n n c"], to_plane: Float[np.ndarray, "3 3"], size: int
) -> UInt8[np.ndarray, "H W c"]:
    """The texture in a picture, from three by three tiles.

    Args:
      tiles: the tiles.
      to_plane: maps image coordinates to those of the texture, in sides. The picture's edges may
        span two tiles.
      size: of the picture, in pixels.
    """
    corners = to_plane @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    first = TILE * np.floor(corners[:2].min(1) / TILE)  # OpenCV is slow outside the first tiles
    shift, of_pixels = np.eye(3), np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, size]]) / size
    shift[:2, 2] = -first
    change = len(tiles) / 3 / TILE * (shift @ to_plane @ of_pixels)[:2]
    return cv2.warpAffine(
        tiles, change, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def grid(size: int) -> Float32[np.ndarray, "H W 2"]:
    """Image coordinates (x, y) of the centres of all pixels."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.stack(np.meshgrid(centres, centres), axis=-1)
