"""The errors that a user can mend; everything else is a defect of cryorbit and keeps its traceback."""

from __future__ import annotations

from collections.abc import Sequence


class CryorbitError(ValueError):
    """A mistake in the input, the options or the surroundings, said in one sentence with its remedy."""


class ConfigurationError(CryorbitError):
    """An option that is unknown, out of range, or in conflict with another."""


class TrainingDivergedError(ConfigurationError):
    """Settings with which the loss ceases to be a number."""


class RunFolderError(CryorbitError):
    """A run folder that cannot be created, continued or read."""


class ParticleDataError(CryorbitError):
    """Particle files that are missing, damaged or contradictory.

    Parameters
    ----------
    problems
        One sentence, or every sentence that applies: all that is wrong with a file is said at once.

    Attributes
    ----------
    problems : tuple of str
        The sentences, in the order in which they were found.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))
