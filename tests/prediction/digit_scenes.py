"""Photographs of a digit, made from its strokes: sheets on desks, shadows, crops, broken strokes.

Ink is float64 `[h, w]`, 0 to 1; a scene is uint8 `[H, W]` or `[H, W, 3]`.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

Scene = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _page(
    ink: np.ndarray, rng: np.random.Generator, height: int = 400, width: int = 320
) -> np.ndarray:
    """Write on a page of some paper in some ink, somewhere."""
    page = np.full((height, width, 3), rng.uniform(215, 250)) + rng.uniform(-12, 12, 3)
    row, column = (int(rng.integers(30, page.shape[a] - ink.shape[a] - 30)) for a in (0, 1))
    part = page[row : row + ink.shape[0], column : column + ink.shape[1]]
    colour = rng.uniform(10, 70, 3)
    colour[2] += rng.uniform(0, 70)
    part += (colour - part) * ink[..., None]
    return page


def _photograph(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light a scene from one side, and add a camera's noise."""
    rows, columns = (np.linspace(-0.5, 0.5, side) for side in scene.shape[:2])
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    lit = 1 - strength * (0.5 + np.sin(angle) * rows[:, None] + np.cos(angle) * columns)
    noisy = scene * lit[..., None] + rng.normal(0, rng.uniform(0, 4), scene.shape)
    photograph: np.ndarray = np.clip(noisy, 0, 255).astype(np.uint8)
    return photograph


def on_a_desk(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay the page, turned, on a darker desk."""
    page = np.clip(_page(ink, rng), 0, 255).astype(np.uint8)
    desk = Image.new("RGB", (560, 560), tuple(int(v) for v in rng.uniform(20, 130, 3)))
    sheet = Image.fromarray(page).convert("RGBA")
    turned = sheet.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, expand=True)
    desk.paste(turned, (int(rng.integers(40, 120)), int(rng.integers(40, 120))), turned)
    return _photograph(np.asarray(desk, np.float64), rng)


def in_a_shadow(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let the edge of a shadow, sharp or soft, fall across the middle of the page."""
    page = _page(ink, rng)
    rows, columns = np.indices(page.shape[:2])
    angle = rng.uniform(0, 2 * np.pi)
    away = (rows - 200) * np.sin(angle) + (columns - 160) * np.cos(angle) - rng.uniform(-60, 60)
    shadow = np.clip(away / rng.uniform(1, 16) + 0.5, 0, 1) * rng.uniform(0.3, 0.6)
    return _photograph(page * (1 - shadow[..., None]), rng)


def in_a_band_of_shadow(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let the shadow of an arm fall across the page from corner to corner."""
    page = _page(ink, rng)
    rows, columns = np.indices(page.shape[:2])
    away = np.abs(rows * 320 / 400 - columns) - rng.uniform(50, 80)
    shadow = np.clip(0.5 - away / rng.uniform(1, 4), 0, 1) * rng.uniform(0.4, 0.6)
    return _photograph(page * (1 - shadow[..., None]), rng)


def in_a_window(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint light on dark in a window with a thin frame of some colour."""
    window = np.full((400, 360, 3), rng.uniform(40, 220, 3))
    window[30:396, 4:356] = 0
    row, column = (int(rng.integers(50, window.shape[a] - ink.shape[a] - 20)) for a in (0, 1))
    part = window[row : row + ink.shape[0], column : column + ink.shape[1]]
    part += (rng.uniform(180, 255, 3) - part) * ink[..., None]
    return window.astype(np.uint8)


def cropped(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crop the page to the digit's box; half of them are light on dark."""
    scene = 235 - rng.uniform(150, 220) * ink[..., None].repeat(3, 2)
    return _photograph(scene if rng.integers(2) else 255 - scene, rng)


def beside_another(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write the digit and its mirror image side by side."""
    gap = np.zeros((len(ink), int(len(ink) * rng.uniform(0.2, 0.5))))
    pair = np.hstack([ink, gap, ink[:, ::-1]])
    return _photograph(_page(pair, rng, 400, pair.shape[1] + 100), rng)
