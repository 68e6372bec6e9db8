"""Pictures of the documentation, drawn again by ``python docs/make_pictures.py RUN`` (of `cryorbit demo`, say)."""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from scipy.ndimage import affine_transform

from cryorbit.optics.ctf import Optics, ctf_1d

PICTURES = Path(__file__).resolve().parent / "pictures"
SIZES = {"desktop": (1280, 1150), "phone": (390, 844)}
THEMES = ("light", "dark")
PSI_DEG, SHIFT_PX, BOX = 35.0, (9.0, 6.0), 64


def save(image: Image.Image, name: str) -> None:
    """Write a picture that a page can carry."""
    image.convert("RGB").save(PICTURES / f"{name}.webp", "WEBP", quality=80, method=6)


def conventions() -> None:
    """A reference, the same turned and shifted, and the contrast transfer function."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    reference = np.exp(-((x - 10) ** 2 + y**2) / 60) + 0.8 * np.exp(-((x + 8) ** 2 + (y - 6) ** 2) / 25)
    a = np.radians(PSI_DEG)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    # image(x) = reference(R (x - t)), here with the rows first.
    forward = turn[::-1, ::-1]
    centre = np.full(2, BOX // 2)
    image = affine_transform(reference, forward, centre - forward @ (centre + np.array(SHIFT_PX[::-1])), order=3)
    figure = Figure(figsize=(11, 3.8), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    for axes, shown, title in (
        (panels[0], reference, "reference"),
        (panels[1], image, "image: turned by psi, moved by t"),
    ):
        axes.imshow(shown, cmap="gray", extent=(-BOX / 2, BOX / 2, BOX / 2, -BOX / 2))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("x (pixels)")
        axes.set_ylabel("y (pixels), down")
        axes.axhline(0, color="#E69F00", linewidth=0.7)
        axes.axvline(0, color="#E69F00", linewidth=0.7)
    mark(panels[1])
    transfer(panels[2])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    save(Image.open(buffer), "conventions")


def mark(axes: Axes) -> None:
    """Where the shift leads, and which way the angle goes."""
    t = np.array(SHIFT_PX)
    axes.set_xlim(-BOX / 2, BOX / 2)
    axes.annotate("", t, (0, 0), arrowprops={"arrowstyle": "->", "color": "#56B4E9", "linewidth": 2})
    axes.text(t[0] / 2 - 6, t[1] / 2 + 7, "t", color="#56B4E9", fontsize=12)
    end = 22 * np.array([np.cos(np.radians(-PSI_DEG)), np.sin(np.radians(-PSI_DEG))])
    axes.plot([t[0], t[0] + 24], [t[1], t[1]], color="#CC79A7", linewidth=1, linestyle=":")
    axes.plot([t[0], t[0] + end[0]], [t[1], t[1] + end[1]], color="#CC79A7", linewidth=1.5)
    axes.add_patch(Arc(t, 30, 30, theta1=-PSI_DEG, theta2=0, color="#CC79A7", linewidth=1.5))
    axes.text(t[0] + 16, t[1] - 3, "psi", color="#CC79A7", fontsize=11)


def transfer(axes: Axes) -> None:
    """The contrast transfer function at two defoci."""
    k = np.linspace(0, 1 / 8, 500)
    optics = Optics(voltage_kV=300.0, cs_mm=2.7, amplitude_contrast=0.1)
    for defocus_um, colour, style in ((1.0, "#0072B2", "-"), (2.0, "#D55E00", "--")):
        values = ctf_1d(torch.from_numpy(k), torch.tensor([defocus_um * 1e4], dtype=torch.float64), optics)[0]
        axes.plot(k, values.numpy(), color=colour, linestyle=style, label=f"{defocus_um:g} um")
    axes.axhline(0, color="#7F7F7F", linewidth=0.7)
    axes.set_xlabel("spatial frequency (1/A)")
    axes.set_ylabel("contrast transfer")
    axes.set_title("positive near the origin: white protein", fontsize=10)
    axes.legend(title="defocus", fontsize=9)


def screenshots(page: Path, browser: Browser) -> None:
    """The page in both themes, on a desk and on a phone."""
    for width_name, (width, height) in SIZES.items():
        for theme in THEMES:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
            tab = context.new_page()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("#explorer[data-ready=true]")
            tab.evaluate("document.getElementById('explore').scrollIntoView()")
            tab.wait_for_timeout(600)
            save(Image.open(io.BytesIO(tab.screenshot())), f"{width_name}-{theme}")
            context.close()


def main() -> None:
    """Draw everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder with a report")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    conventions()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        screenshots(options.run / "report.html", browser)
        browser.close()


if __name__ == "__main__":
    main()
