"""Noise as an out-of-distribution source: images that no file holds, each determined by its index alone."""

import numpy as np

DISTRIBUTIONS = ("gaussian", "uniform")


def noise_image(distribution: str, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """One noise image of the ODIN paper (Liang et al. 2018, section 4.2), pixels independent.

    A counter-based generator keyed by distribution and index draws it, so that any worker makes the same image without
    drawing those before it.

    Args:
      distribution: `gaussian`, N(0.5, 1) clipped to [0, 1]; `uniform`, U(0, 1).
      index: of the image, >= 0.
      shape: (height, width, channels).

    Returns:
      float32 array of that shape in [0, 1]; not rounded to 256 steps.
    """
    key = np.array([DISTRIBUTIONS.index(distribution), index], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    if distribution == "uniform":
        return generator.random(shape, np.float32)
    return np.clip(generator.standard_normal(shape, np.float32) + np.float32(0.5), 0, 1)
