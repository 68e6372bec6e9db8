"""Averages as small pictures inside a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from cryorbit.conventions import FloatArray
from cryorbit.report.drawing import middle_range

# Share of the pixels at either end that are drawn black or white.
CLIPPED_PERCENT = 0.2
WEBP_QUALITY = 80


def grey(image: FloatArray) -> FloatArray:
    """An average between black (0) and white (1)."""
    low, high = middle_range(image.ravel(), CLIPPED_PERCENT)
    return np.asarray(np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0))


def as_webp(image: FloatArray, width_px: int) -> str:
    """An average of this width, in base64 for a data URI."""
    picture = Image.fromarray((255 * grey(image)).astype(np.uint8))
    buffer = io.BytesIO()
    picture.resize((width_px, width_px), Image.Resampling.BICUBIC).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
