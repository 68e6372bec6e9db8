"""What the latent space says, in plain sentences: of the written numbers where it made them, else for comparison."""

from __future__ import annotations

from cryorbit.estimation.defocus import WEAK_EVIDENCE
from cryorbit.report.record import RunRecord
from cryorbit.report.wording import degrees, micrometres, typical


def latent_defocus_deviation_um(run: RunRecord) -> float | None:
    """Median predicted deviation of the latent's defocus of kept particles; None where nothing can be learnt of it."""
    prefix = "plane_" if run.reading == "plane_" else "latent_"
    return None if same_defoci(run) else typical(run.column(f"{prefix}defocus_std_um")[run.kept])


def same_defoci(run: RunRecord) -> bool:
    """Whether the known defoci do not differ, so that nothing can be learnt about the latent's."""
    quartiles = run.fact("defocus", "quartiles_um")
    return isinstance(quartiles, list) and len(quartiles) == 2 and quartiles[0] == quartiles[1]


def identifiable(run: RunRecord) -> bool:
    """Whether the latent orbits are rings, as far as the run says."""
    return run.fact("chart", "identifiable") is not False


def is_guided(run: RunRecord) -> bool:
    """Whether the network was told angles and defoci by the alignment."""
    return run.fact("chart", "guided") is True


def for_comparison(run: RunRecord) -> str:
    """One paragraph about the latent space of a run whose written numbers come from the alignment."""
    if not run.has_latent:
        return ""
    parts = [
        f"For comparison the latent space of the network was read too, {_how(run)}; nothing of what follows was "
        "written to the particle file (it is in the columns latent_* and plane_* of estimates.parquet)."
    ]
    angle = typical(run.column("latent_psi_std_deg")[run.kept])
    if not identifiable(run):
        parts.append("No angle can be read from the latent orbits: they are no rings.")
    elif angle is not None:
        parts.append(f"The latent orbits' angles have a median predicted deviation of {degrees(angle)}.")
        if run.latent_isotropy_order > 1:
            parts.append(f"The network sees them modulo {360.0 / run.latent_isotropy_order:g} degrees.")
    parts += [plane(run), _defocus_scale(run, latent_defocus_deviation_um(run))]
    return " ".join(part for part in parts if part)


def _how(run: RunRecord) -> str:
    return "which had learnt from the alignment but does without it" if is_guided(run) else "as the paper does"


def plane(run: RunRecord) -> str:
    """What the group's action says about the paper's polar formula."""
    winding = run.number("chart", "winding")
    if winding is None or not identifiable(run):
        return ""
    closure = run.number("chart", "closure_deg")
    if abs(winding) == 1:
        missed = f", missing known turns by {degrees(closure)} (rms)" if closure is not None else ""
        return f"In the plane of the first two principal components the orbits are simple rings{missed}."
    if winding == 0:
        meaning = "orbits do not run around its centre, so the polar angle there is no angle of the particle"
    else:
        meaning = (
            f"orbits run around {abs(winding):g} times while the particle turns once, so particles that are "
            f"{360.0 / abs(winding):g} degrees apart share a polar angle"
        )
    return (
        f"The paper's polar formula folds here: in the plane of the first two principal components {meaning}."
        f"{_remedy(run)}"
    )


def _remedy(run: RunRecord) -> str:
    if run.has_alignment:
        return ""
    if run.reading == "plane_":
        return " The written angles are of this kind, as the configuration asked (chart = pca): do not use them."
    return (
        " Columns named after the plane are kept for comparison only; the written angles are read from the whole "
        "orbits, which do not need that plane."
    )


def angles(run: RunRecord) -> str:
    """How well the written angles are known, where they were read from the latent space."""
    if not run.angle_known:
        return (
            "No in-plane angle can be read from these particles: their orbits are no rings. The particle looks "
            "round to the network, or training was too short or the images too noisy. An angle that the input "
            "had was left as it was; one that it had not has a deviation that says so: do not use it."
        )
    median = typical(run.column("psi_std_deg")[run.kept])
    if median is None:
        return "The run stored no deviations of its angles, so it is not known how well they are known."
    offset = (
        "They are in the frame of the average that the training was told."
        if is_guided(run)
        else "They share one arbitrary offset."
    )
    text = (
        f"Angles were read from the latent space. Those of kept particles have a median predicted deviation of "
        f"{degrees(median)}; what the file says of each particle is its own. {offset}"
    )
    if run.isotropy_order > 1:
        text += (
            f" The isotropy order is {run.isotropy_order}: angles are known modulo "
            f"{360.0 / run.isotropy_order:g} degrees, because the encoder finds the particle the same after such "
            "a turn. That is a symmetry of the view, or of what the network resolves of it."
        )
    return text


def defocus(run: RunRecord) -> str:
    """Where the written defoci come from, and how well the latent's are known, in a run of the latent method."""
    median = latent_defocus_deviation_um(run)
    if run.keeps_file_defocus:
        text = "The input file's defocus was kept in the output; the latent's own estimate is beside it."
    elif median is None:
        text = "Defoci are read from the latent space; it is not known how well."
    else:
        text = "Defoci are read from the latent space."
    return f"{text} {_defocus_scale(run, median)}".strip()


def _defocus_scale(run: RunRecord, median: float | None) -> str:
    """How well the latent's defoci are known, and what gives them their scale."""
    if same_defoci(run):
        return "All defoci that are known are the same, so nothing can be learnt about the latent's."
    if is_guided(run):
        scale = "Their scale is that of the alignment, which the training was told."
        if median is None:
            return scale
        return (
            f"The latent's defoci have a median predicted deviation of {micrometres(median)}, brought to the size of "
            f"the errors on particles held out from the training. {scale}"
        )
    parts = []
    if median is not None:
        parts.append(
            f"The latent's defoci have a median predicted deviation of {micrometres(median)}; that is how well they "
            "repeat, not how right their scale is."
        )
    known_from = run.fact("defocus", "known_from")
    if known_from:
        parts.append(f"Their scale comes from a distribution taken as known ({known_from}), not from the images.")
    evidence = run.number("chart", "radial_evidence")
    if evidence is not None and evidence < WEAK_EVIDENCE:
        parts.append(
            f"The latent radius hardly follows the defocus (squared correlation {evidence:.3f}), so even the "
            "direction of the latent's defocus is uncertain."
        )
    return " ".join(parts)
