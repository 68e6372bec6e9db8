"""What the alignment says, in plain sentences: the average, how well each number is known, and how well it could be."""

from __future__ import annotations

from dataclasses import dataclass

from cryorbit.alignment.orbit import FRC_THRESHOLD
from cryorbit.report.agreement import agreement_period_deg, angle_agreement, defocus_agreement
from cryorbit.report.latent_summary import same_defoci
from cryorbit.report.record import RunRecord
from cryorbit.report.wording import NOTHING, angstrom, degrees, listed, micrometres, particles, resolution, typical

# Lead in log-likelihood below which another solution for all defoci is worth a word; as the alignment's own warning.
CLEAR_LEAD_NATS = 10.0


@dataclass(frozen=True)
class Precision:
    """How well angle, shift along one axis and defocus are known; None where that is not known.

    Attributes
    ----------
    psi_deg, origin_A, defocus_um
        Deviations or bounds.
    """

    psi_deg: float | None
    origin_A: float | None
    defocus_um: float | None

    def words(self) -> list[str]:
        """The numbers with their units."""
        return [degrees(self.psi_deg), angstrom(self.origin_A), micrometres(self.defocus_um)]


def predicted_precision(run: RunRecord) -> Precision:
    """Median predicted deviation of the kept particles' written numbers."""
    psi, origin, defocus = (
        typical(run.column(name)[run.kept]) for name in ("psi_std_deg", "origin_std_A", "defocus_std_um")
    )
    return Precision(psi if run.angle_known else None, origin, None if run.keeps_file_defocus else defocus)


def possible_precision(run: RunRecord) -> Precision:
    """Cramer-Rao bounds, root mean square over the particles."""
    limits = {name: run.number("alignment", "limits", name) for name in ("psi_deg", "origin_A", "defocus_um")}
    if not run.angle_known:
        limits["psi_deg"] = None
    return Precision(limits["psi_deg"], limits["origin_A"], None if run.keeps_file_defocus else limits["defocus_um"])


def sentences(run: RunRecord) -> list[str]:
    """What the alignment found, the most important first."""
    if nothing_learnt(run):
        few = "There were too few particles to learn an average from: no angle, shift or defocus was estimated."
        return [few, _defocus(run)]
    return [_average(run), _precision(run), _symmetry(run), _defocus(run)]


def nothing_learnt(run: RunRecord) -> bool:
    """Whether there were too few particles to align."""
    return run.number("alignment", "learnt_from") == 0


def reaches_the_finest(run: RunRecord) -> bool:
    """Whether the average's two halves still agree in the finest ring that was looked at."""
    reached, finest = run.number("alignment", "resolution_A"), run.number("alignment", "finest_A")
    correlation = run.average.correlation
    return reached is not None and reached == finest and not (len(correlation) and correlation[-1] < FRC_THRESHOLD)


def _average(run: RunRecord) -> str:
    learnt, reached = run.number("alignment", "learnt_from"), run.number("alignment", "resolution_A")
    text = "All particles were aligned to their own average, without a reference from elsewhere"
    text += f"; it was learnt from {particles(int(learnt))}." if learnt is not None else "."
    if reached is not None:
        better = " or better, the finest that was looked at" if reaches_the_finest(run) else ""
        text += (
            f" Two halves of the average, aligned apart, agree to {resolution(reached)}{better} (Fourier ring "
            f"correlation above {FRC_THRESHOLD:g})."
        )
    return text


def _precision(run: RunRecord) -> str:
    """How well the kept particles' numbers are known, and how well they could be."""
    known, possible = predicted_precision(run).words(), possible_precision(run).words()
    of = ("of the angle", "of the shift along an axis", "of the defocus")
    said = [(f"{word} {what}", bound) for word, bound, what in zip(known, possible, of, strict=True) if word != NOTHING]
    if not said:
        return "The run stored no deviations, so it is not known how well its numbers are known."
    text = f"The median predicted deviation of kept particles is {listed([words for words, _ in said])}."
    bounds = [bound for _, bound in said]
    if NOTHING not in bounds:
        text += f" What these data allow is {listed(bounds)} (Cramér-Rao bounds, rms over the particles)."
    return f"{text} All angles share one arbitrary offset, which nothing in the images fixes."


def _symmetry(run: RunRecord) -> str:
    if not run.angle_known:
        return (
            "No in-plane angle can be known: no angle of the average fits the images much better than another, as "
            "with a round particle, or with images that show no common particle. An angle that the input had was "
            "left as it was; one that it had not has a deviation that says so: do not use it."
        )
    if run.isotropy_order > 1:
        return (
            f"The isotropy order is {run.isotropy_order}: the average looks the same after a turn of "
            f"360/{run.isotropy_order} degrees, so angles are known modulo {360.0 / run.isotropy_order:g} degrees."
        )
    return ""


def _defocus(run: RunRecord) -> str:
    """Where the written defoci come from."""
    if run.keeps_file_defocus:
        return "The input file's defocus was trusted and kept in the output."
    if nothing_learnt(run):
        return ""
    near_file = run.defocus_prior == "micrograph"
    if near_file:
        text = "Defoci were searched near the input file's own, which are kept beside them."
    else:
        searched = run.fact("alignment", "searched_um")
        text = "Defoci were found from the images alone; values that the input may have had were not used"
        known = isinstance(searched, list) and len(searched) == 2 and all(isinstance(x, int | float) for x in searched)
        text += f" (searched: {searched[0]:g} to {searched[1]:g} µm)." if known else "."
    rival = run.number("alignment", "rival_nats")
    if rival is None or rival >= CLEAR_LEAD_NATS:
        return text
    remedy = "" if near_file else ": give --defocus-prior micrograph"
    return (
        f"{text} They are ambiguous: another solution, with all of them moved together, fits as well to within "
        f"{rival:.1f} nats. Defoci that hardly differ do not tell{remedy}."
    )


def agreement(run: RunRecord) -> str:
    """How far the two methods say the same."""
    angle, defocus, said = angle_agreement(run), defocus_agreement(run), []
    if angle is not None:
        period = agreement_period_deg(run)
        modulo = f", modulo {period:g} degrees" if period < 360.0 else ""
        said.append(
            f"by {degrees(angle.rms)} in the angle (rms, after one turn and one sign for the whole set{modulo}; "
            f"{degrees(angle.expected_rms)} would be expected of their predicted deviations)"
        )
    if defocus is not None and not same_defoci(run):
        given = ", where the alignment has the input file's" if run.keeps_file_defocus else ""
        said.append(
            f"by {micrometres(defocus.rms)} in the defocus (rms{given}; "
            f"{micrometres(defocus.expected_rms)} would be expected)"
        )
    return f"The two methods differ {listed(said)}, over kept particles." if said else ""
