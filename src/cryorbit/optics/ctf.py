"""The contrast transfer function, in the sign of :mod:`cryorbit.conventions`.

torch-ctf 0.6 writes ``-sin(chi)`` with its ``chi`` negated, which is the ``+sin`` of the conventions: no sign
changes here. Its phase is used, not its two-dimensional function: that one takes the square root of the
astigmatism, which is not a number where defocus U is smaller than V and has no derivative where they are
equal, and it knows float32 only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch_ctf import calculate_total_phase_shift

from cryorbit.conventions import ANGSTROM_PER_UM
from cryorbit.errors import ConfigurationError

# CODATA 2018; the first three are exact by definition of the SI.
PLANCK_J_S = 6.62607015e-34
LIGHT_SPEED_M_S = 299792458.0
ELEMENTARY_CHARGE_C = 1.602176634e-19
ELECTRON_MASS_KG = 9.1093837015e-31

# Above this, a voltage was surely meant in volts: no electron microscope exceeds 3 MV.
LARGEST_VOLTAGE_kV = 3500.0
ANGSTROM_PER_M = 1.0e10


@dataclass(frozen=True)
class Optics:
    """What the microscope contributes to the contrast transfer function.

    Attributes
    ----------
    voltage_kV
        Acceleration voltage in kV.
    cs_mm
        Spherical aberration in mm.
    amplitude_contrast
        Fraction of amplitude contrast, 0 to 1.

    Raises
    ------
    ConfigurationError
        If a value is not a number or cannot belong to a microscope.
    """

    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1

    def __post_init__(self) -> None:
        check_voltage_kV(self.voltage_kV)
        if not math.isfinite(self.cs_mm) or self.cs_mm < 0:
            raise ConfigurationError(
                f"Spherical aberration is {self.cs_mm} mm; expected a number of at least 0: give the "
                "microscope's Cs, about 2.7 mm (0.01 mm with a corrector)."
            )
        if not 0.0 <= self.amplitude_contrast <= 1.0:
            raise ConfigurationError(
                f"Amplitude contrast is {self.amplitude_contrast}; expected a fraction from 0 to 1: give "
                "0.07 to 0.1 for cryo-EM, not a percentage."
            )


def check_voltage_kV(voltage_kV: float) -> None:
    """Refuse a voltage that no electron microscope has.

    Raises
    ------
    ConfigurationError
        If the voltage is not a positive number of kilovolts; volts are recognised as such.
    """
    if math.isfinite(voltage_kV) and 0 < voltage_kV <= LARGEST_VOLTAGE_kV:
        return
    remedy = (
        f"this looks like volts, so give {voltage_kV / 1000:g}"
        if math.isfinite(voltage_kV) and voltage_kV > LARGEST_VOLTAGE_kV
        else "give the acceleration voltage, such as 300"
    )
    raise ConfigurationError(f"Voltage is {voltage_kV:g}; expected kilovolts above 0: {remedy}.")


def check_pixel_size_A(pixel_size_A: float) -> None:
    """Refuse a pixel size that is not a positive number of Angstrom.

    Raises
    ------
    ConfigurationError
        If it is zero, negative or not a number.
    """
    if not math.isfinite(pixel_size_A) or pixel_size_A <= 0:
        raise ConfigurationError(
            f"Pixel size is {pixel_size_A} A; expected a number above 0: give the pixel size in the specimen."
        )


def electron_wavelength_A(voltage_kV: float) -> float:
    """Relativistic wavelength of the electron in Angstrom, ``h c / sqrt(e U (2 m c^2 + e U))``.

    Parameters
    ----------
    voltage_kV
        Acceleration voltage in kV.

    Raises
    ------
    ConfigurationError
        If the voltage is not positive, or given in volts.

    References
    ----------
    Reimer and Kohl, Transmission Electron Microscopy, 5th edition (2008), equation 2.12; constants of CODATA
    2018.
    """
    check_voltage_kV(voltage_kV)
    energy_J = ELEMENTARY_CHARGE_C * voltage_kV * 1e3
    rest_energy_J = ELECTRON_MASS_KG * LIGHT_SPEED_M_S**2
    momentum_times_c = math.sqrt(energy_J * (2.0 * rest_energy_J + energy_J))
    return PLANCK_J_S * LIGHT_SPEED_M_S / momentum_times_c * ANGSTROM_PER_M


def ctf_2d(
    size: int,
    pixel_size_A: float,
    defocus_u_A: Float[Tensor, " batch"],
    defocus_v_A: Float[Tensor, " batch"],
    defocus_angle_deg: Float[Tensor, " batch"],
    optics: Optics,
    phase_shift_deg: float = 0.0,
) -> Float[Tensor, "batch size half"]:
    """Contrast transfer functions on the grid of ``rfft2``, zero frequency first.

    Parameters
    ----------
    size
        Width of the images in pixels.
    pixel_size_A
        Pixel size in Angstrom.
    defocus_u_A, defocus_v_A
        Defocus in Angstrom along the axis at ``defocus_angle_deg`` and across it, shape (batch,); positive is
        underfocus. Their data type and device are those of the result.
    defocus_angle_deg
        Direction of ``defocus_u_A`` in degrees from x towards y, as RELION's ``rlnDefocusAngle``, shape
        (batch,).
    optics
        Voltage, spherical aberration and amplitude contrast.
    phase_shift_deg
        Phase shift of a phase plate in degrees.

    Returns
    -------
    Tensor
        Shape (batch, size, size // 2 + 1), values in [-1, 1].

    Raises
    ------
    ConfigurationError
        If the pixel size is not positive, or a defocus or an angle is not a number.

    References
    ----------
    Rohou and Grigorieff 2015, J. Struct. Biol. 192, 216, equations 1 to 3, with the sign of RELION.
    """
    check_pixel_size_A(pixel_size_A)
    kind = {"dtype": defocus_u_A.dtype, "device": defocus_u_A.device}
    kx = torch.fft.rfftfreq(size, pixel_size_A, **kind)
    ky = torch.fft.fftfreq(size, pixel_size_A, **kind)
    return ctf_at(kx, ky, defocus_u_A, defocus_v_A, defocus_angle_deg, optics, phase_shift_deg)


def ctf_at(
    kx_per_A: Float[Tensor, " columns"],
    ky_per_A: Float[Tensor, " rows"],
    defocus_u_A: Float[Tensor, " batch"],
    defocus_v_A: Float[Tensor, " batch"],
    defocus_angle_deg: Float[Tensor, " batch"],
    optics: Optics,
    phase_shift_deg: float = 0.0,
) -> Float[Tensor, "batch rows columns"]:
    """Contrast transfer functions where rows and columns of any frequencies cross: parts of a large image's grid.

    Parameters
    ----------
    kx_per_A, ky_per_A
        Spatial frequencies of the columns and of the rows in 1/Angstrom, shapes (columns,) and (rows,).
    defocus_u_A, defocus_v_A, defocus_angle_deg, optics, phase_shift_deg
        As in :func:`ctf_2d`.

    Returns
    -------
    Tensor
        Shape (batch, rows, columns), values in [-1, 1].

    Raises
    ------
    ConfigurationError
        If a defocus or an angle is not a number.
    """
    _check_finite(defocus_u_A, defocus_v_A, defocus_angle_deg)
    kx, ky = kx_per_A[None, :], ky_per_A[:, None]
    k_squared = kx**2 + ky**2
    at_angle_A = _defocus_by_direction_A(
        kx,
        ky,
        k_squared,
        defocus_u_A[:, None, None],
        defocus_v_A[:, None, None],
        defocus_angle_deg[:, None, None],
    )
    return _transfer(k_squared, at_angle_A, optics, phase_shift_deg)


def ctf_1d(
    spatial_frequency_per_A: Float[Tensor, " rings"], defocus_A: Float[Tensor, " batch"], optics: Optics
) -> Float[Tensor, "batch rings"]:
    """Contrast transfer functions without astigmatism, at any spatial frequencies.

    Parameters
    ----------
    spatial_frequency_per_A
        Spatial frequencies in 1/Angstrom, shape (rings,).
    defocus_A
        Defocus in Angstrom, positive is underfocus, shape (batch,).
    optics
        Voltage, spherical aberration and amplitude contrast.

    Returns
    -------
    Tensor
        Shape (batch, rings).

    Raises
    ------
    ConfigurationError
        If a defocus or a frequency is not a number.
    """
    _check_finite(defocus_A, spatial_frequency_per_A)
    return _transfer(spatial_frequency_per_A[None, :] ** 2, defocus_A[:, None], optics, 0.0)


def ctf_phase_line(
    spatial_frequency_per_A: Float[Tensor, " rings"], optics: Optics, phase_shift_deg: float = 0.0
) -> tuple[Float[Tensor, " rings"], Float[Tensor, " rings"]]:
    """Slope and offset of the CTF's phase, which is linear in the defocus: ``CTF = sin(slope * defocus + offset)``.

    Parameters
    ----------
    spatial_frequency_per_A
        Spatial frequencies in 1/Angstrom, shape (rings,).
    optics
        Voltage, spherical aberration and amplitude contrast.
    phase_shift_deg
        Phase shift of a phase plate in degrees.

    Returns
    -------
    slope_per_um
        In radians per micrometre of defocus, shape (rings,).
    offset
        In radians, shape (rings,).
    """
    _check_finite(spatial_frequency_per_A)
    k_squared = spatial_frequency_per_A.double() ** 2
    defocus_A = torch.tensor([0.0, ANGSTROM_PER_UM], dtype=torch.float64, device=k_squared.device)
    at_0, at_1_um = _phase(k_squared, defocus_A[:, None], optics, phase_shift_deg)
    kind = spatial_frequency_per_A.dtype
    return (at_1_um - at_0).to(kind), at_0.to(kind)


def _phase(k_squared: Tensor, defocus_A: Tensor, optics: Optics, phase_shift_deg: float) -> Tensor:
    return -calculate_total_phase_shift(
        defocus_um=defocus_A / ANGSTROM_PER_UM,
        voltage_kv=k_squared.new_tensor(optics.voltage_kV),
        spherical_aberration_mm=k_squared.new_tensor(optics.cs_mm),
        phase_shift_degrees=k_squared.new_tensor(phase_shift_deg),
        amplitude_contrast_fraction=k_squared.new_tensor(optics.amplitude_contrast),
        fftfreq_grid_angstrom_squared=k_squared,
    )


def _transfer(k_squared: Tensor, defocus_A: Tensor, optics: Optics, phase_shift_deg: float) -> Tensor:
    return torch.sin(_phase(k_squared, defocus_A, optics, phase_shift_deg))


def _defocus_by_direction_A(
    kx: Tensor, ky: Tensor, k_squared: Tensor, u_A: Tensor, v_A: Tensor, angle_deg: Tensor
) -> Tensor:
    # (U + V) / 2 + (U - V) / 2 cos 2 (theta - angle), with the cosine and sine of 2 theta from kx and ky.
    # At zero frequency the direction is undefined and the defocus without effect.
    safe = torch.where(k_squared > 0, k_squared, torch.ones_like(k_squared))
    twice_rad = torch.deg2rad(2.0 * angle_deg)
    cosine = ((kx**2 - ky**2) * torch.cos(twice_rad) + 2.0 * kx * ky * torch.sin(twice_rad)) / safe
    return 0.5 * (u_A + v_A) + 0.5 * (u_A - v_A) * cosine


def _check_finite(*values: Tensor) -> None:
    bad = sum(int((~torch.isfinite(value)).sum()) for value in values)
    if bad:
        raise ConfigurationError(
            f"{bad} of the values for defocus, its angle or the spatial frequency are not finite numbers; "
            "expected Angstrom and degrees: remove or mend those particles."
        )
