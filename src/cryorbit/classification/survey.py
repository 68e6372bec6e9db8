"""One view or several: what a look at a thousand images says, before anything is decided about all of them.

A few classes are learnt and copies merged. Views leave each other's images unexplained; what one view leaves, junk
apart, is explained by the class that most of its images are in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryorbit.alignment.images import RingImages
from cryorbit.alignment.orbit import geometry_of
from cryorbit.alignment.reader import RingReader
from cryorbit.classification.assign import settle
from cryorbit.classification.learn import Notify, Phase, learn_classes
from cryorbit.classification.measure import facts_and_images
from cryorbit.classification.model import classify
from cryorbit.classification.quality import class_log_odds

# Images to look at, and classes for them.
SAMPLE, CLASSES = 1500, 8
PHASES = (
    Phase(6.0, 12, False, 4, 4 / 128, 2 / 128),
    Phase(9.0, 6, False, 3, 2 / 128, 2 / 128),
    Phase(12.0, 3, True, 4, 2 / 128, 2 / 128),
)
# An image is of another view if the most common class has less than this of what its own says of it: classes of one
# view say nearly all of it, those of real, round particles that differ by their neighbours 0.8 to 0.9.
SAME_VIEW = 0.75
# Share of such images from which there are several views (benchmarks/RESULTS.md, "One view or several").
SEVERAL = 0.22
# Share from which nobody can be sure: one view has rarely more, several views of a round molecule may have less.
DOUBTFUL = 0.14


@dataclass(frozen=True)
class Survey:
    """What a sample shows.

    Attributes
    ----------
    images
        How many were looked at, junk not counted.
    views
        Classes of particles that were found, copies merged.
    elsewhere
        Share of the images that the most common class says clearly less of than their own.
    """

    images: int
    views: int
    elsewhere: float

    @property
    def doubtful(self) -> bool:
        """Whether it may take several views, though one is likelier; or nothing was found to tell it by."""
        return not self.images or DOUBTFUL < self.elsewhere <= SEVERAL

    @property
    def several(self) -> bool:
        """Whether it takes several views to explain the images."""
        return self.elsewhere > SEVERAL


def survey_of(images: RingImages, reader: RingReader, seed: int, notify: Notify = lambda _note, _part: None) -> Survey:
    """Look whether images are of one view.

    Parameters
    ----------
    images
        A sample of the data set, with known defoci.
    reader
        That read them.
    seed
        Of all that is random.
    notify
        Told what is going on and what part is done.
    """
    geometry, radius = geometry_of(reader), reader.images.info.particle_radius_px
    classes = learn_classes(images, geometry, radius, CLASSES, seed, PHASES, notify=notify)
    settled = settle(images, classes, geometry, radius)
    model, number = settled.model, settled.poses.number
    facts = facts_and_images(settled.halves, settled.poses, model.mean_noise, reader)[0]
    good = np.flatnonzero((facts.particles > 0) & (class_log_odds(facts) < 0))
    counted = np.flatnonzero(np.isin(number, good))
    if not len(counted):
        return Survey(0, 0, 0.0)
    found = classify(images, model, model.search(images, geometry, radius))
    said = (found.likeness - model.bank.log_share).cpu().numpy()[counted]
    most_common = max(good, key=lambda one: float(said[:, one].sum()))
    own = said[np.arange(len(counted)), number[counted]]
    elsewhere = float((said[:, most_common] < SAME_VIEW * own).mean())
    return Survey(len(counted), len(good), elsewhere)
