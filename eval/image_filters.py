"""What corruptions are made of: filters, magnification and fractal noise, on views of floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

Colour = npt.NDArray[np.float64]
"""[S, S, 3] RGB in [0, 1], beyond which it is clipped in the end."""
Plane = npt.NDArray[np.float64]
"""[S, S]."""


def blurred(view: Colour, sigma: float) -> Colour:
    """Blur with a Gaussian of this deviation in pixels."""
    found: Colour = ndimage.gaussian_filter(view, (sigma, sigma, 0), mode="nearest")
    return found


def filtered(view: Colour, kernel: Plane) -> Colour:
    """Convolve each channel with an odd square kernel, whose sum becomes 1; edges are mirrored."""
    reach = len(kernel) // 2
    padded = np.pad(view, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    found: Colour = signal.fftconvolve(padded, (kernel / kernel.sum())[..., None], mode="valid", axes=(0, 1))
    return found


def streak(radius: float, sigma: float, angle_deg: float) -> Plane:
    """A kernel along one direction, half a Gaussian long: what moves leaves a trace behind, not before it."""
    steps = np.arange(0, 2 * radius + 0.5, 0.5)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    reach = int(np.ceil(2 * radius)) + 1
    rows, columns = reach + np.sin(np.deg2rad(angle_deg)) * steps, reach + np.cos(np.deg2rad(angle_deg)) * steps
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
        np.add.at(kernel, (top + down, left + right), weights * share)
    return kernel


def zoomed(view: Colour, zoom: float) -> Colour:
    """Magnify about the centre, bilinear."""
    side = len(view)
    places = (np.arange(side) - (side - 1) / 2) / zoom + (side - 1) / 2
    low = np.floor(places).astype(int).clip(0, max(side - 2, 0))
    share = (places - low)[:, None, None]
    high = np.minimum(low + 1, side - 1)
    rows = view[low] * (1 - share) + view[high] * share
    found: Colour = rows[:, low] * (1 - share.swapaxes(0, 1)) + rows[:, high] * share.swapaxes(0, 1)
    return found


def plasma(side: int, decay: float, rng: np.random.Generator) -> Plane:
    """Octaves of smooth noise, each of half the grain of the last and its amplitude divided by `decay`, in [0, 1]."""
    total = np.zeros((side, side))
    for octave in range(1, max(2, int(np.ceil(np.log2(side))) + 1)):
        grain = 2**octave + 1
        places = np.linspace(0, grain - 1, side)
        at = np.meshgrid(places, places, indexing="ij")
        total += ndimage.map_coordinates(rng.uniform(-1, 1, (grain, grain)), at, order=1) / decay**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-12)
