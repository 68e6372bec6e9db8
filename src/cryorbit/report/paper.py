"""What the paper reports, in numbers and in our words: Table 1 and Figures 3 to 8 of Miolane et al. 2020."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table 1; None where it has no number.

    Attributes
    ----------
    auc
        Area under the ROC curve of the isolation forest, junk being what has a Z-score beyond 2.
    angle_deg, defocus_um
        Root mean square errors against RELION, of the angle weighted (equation 8).
    """

    auc: float | None
    angle_deg: float | None
    defocus_um: float | None


@dataclass(frozen=True)
class PaperFigure:
    """Title of a figure, and what it shows in the paper."""

    title: str
    shows: str


TABLE_1 = {
    "simulated": PaperRow(None, 1.72, 0.18),
    "view_93": PaperRow(0.79, 37.38, 0.44),
    "view_39": PaperRow(0.86, 18.61, 0.45),
    "view_30": PaperRow(None, None, None),
}
FIGURES = {
    "figure3": PaperFigure(
        "Figure 3: reconstructions during training",
        "Two rows for the simulated set and two for view 93, at four epochs. Early drawings are nearly round; "
        "symmetries go one after another as the training grows circles of larger radius in the latent space. In the "
        "end the simulated images can hardly be told from their originals, and those of view 93 show a ribosome "
        "without the noise.",
    ),
    "figure4": PaperFigure(
        "Figure 4: latent space of the simulated set",
        "In the plane of two principal components the points lie on circles: the angle runs around them, and the "
        "radius follows the defocus. Of the six levels of defocus the last three run into one another.",
    ),
    "figure5": PaperFigure(
        "Figure 5: outliers of view 39",
        "Left, ROC curves of three detectors in the latent space against labels from RELION (Z-score beyond 2); the "
        "isolation forest reaches 0.86. Right, the points that the isolation forest takes for outliers, around the "
        "rings of the others.",
    ),
    "figure6": PaperFigure(
        "Figure 6: latent space of view 39",
        "All pairs of the four latent axes, one triangle coloured by the angle from -180 to 180 degrees, the other by"
        " the defocus from 0.5 to 2.5 µm: concentric circles as in the simulated set, less sharp.",
    ),
    "figure7": PaperFigure(
        "Figure 7: the symmetry of view 30",
        "RELION's class average of this view has no symmetry in its detail, but what the decoder draws looks the same"
        " after a third of a turn (C3): a failure that comes from the resolution of the drawings.",
    ),
    "figure8": PaperFigure(
        "Figure 8: estimates against the truth",
        "Hexagonal bins of predicted against true angle and defocus, the truth of experiments being RELION's. The "
        "simulated set lies on a line (1.72 degrees, 0.18 µm). Views 93 and 39 scatter about theirs; in view 30 the "
        "angle comes in three parallel lines, and in their mirror images.",
    ),
}  # fmt: skip
