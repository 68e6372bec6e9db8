"""Specimens: a phantom, a map or an atomic model, each seen along one direction as a fine projected image."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
from scipy import ndimage

from cryorbit.conventions import FloatArray
from cryorbit.errors import ConfigurationError, ParticleDataError
from cryorbit.optics.ctf import check_pixel_size_A
from cryorbit.simulation.phantom import PhantomKind, phantom_atoms_A

View = tuple[float, float]

PHANTOM_PIXEL_A = 1.0
PHANTOM_WIDTH_PX = 320
PHANTOM_ATOM_SIGMA_A = 3.0

# A partial specific volume of 0.73 ml/g; the mean mass of a residue, and the part of it that is not hydrogen.
PROTEIN_VOLUME_A3_PER_DA = 1.21
RESIDUE_DA = 110.0
NOT_HYDROGEN = 0.93
# Where a map ends and its particle begins: voxels averaged to this width, above this part of the highest.
PARTICLE_VOXEL_A = 8.0
PARTICLE_LEVEL = 0.2

MODEL_SPACING_A = 1.0
MODEL_LARGEST_GRID = 400
MODEL_MARGIN_A = 12.0
# Keeps the sharpest atoms from falling between grid points; costs 13 % of the amplitude at 6 A.
MODEL_BLUR_A2 = 20.0


@dataclass(frozen=True)
class Projection:
    """A specimen seen along one direction, sampled finely, protein white.

    Attributes
    ----------
    image
        Shape (m, m), float64; the particle's centre is at pixel (m // 2, m // 2) and all outside is 0.
    pixel_size_A
        Pixel size in Angstrom.
    rot_deg, tilt_deg
        The direction, in RELION's Euler angles.
    volume_A3
        The particle's volume in cubic Angstrom, where it is known; it tells how strong its contrast is.

    Raises
    ------
    ParticleDataError
        If the image is not square, not finite, or constant.
    """

    image: FloatArray
    pixel_size_A: float
    rot_deg: float = 0.0
    tilt_deg: float = 0.0
    volume_A3: float | None = None

    def __post_init__(self) -> None:
        check_pixel_size_A(self.pixel_size_A)
        shape = self.image.shape
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ParticleDataError(f"The projected image has shape {shape}; expected a square: crop or pad it.")
        if not np.isfinite(self.image).all() or np.ptp(self.image) == 0:
            raise ParticleDataError(
                "The projected image is constant or holds values that are not numbers; expected a particle: "
                "choose another map, model or view."
            )


def view_matrix(view: View) -> FloatArray:
    """Rotation that brings a specimen into RELION's view (rot, tilt) in degrees; it is then seen along z.

    Returns
    -------
    FloatArray
        Shape (3, 3), acting on columns x y z: a point ``q`` of the specimen appears at ``(A q)[:2]``.

    References
    ----------
    Heymann, Chagoyen and Belnap 2005, J. Struct. Biol. 151, 196: rotation about z, then the new y.
    """
    rot, tilt = np.deg2rad(view)
    about_z = np.array([[math.cos(rot), math.sin(rot), 0], [-math.sin(rot), math.cos(rot), 0], [0, 0, 1.0]])
    about_y = np.array([[math.cos(tilt), 0, -math.sin(tilt)], [0, 1.0, 0], [math.sin(tilt), 0, math.cos(tilt)]])
    matrix: FloatArray = about_y @ about_z
    return matrix


def phantom_projection(kind: PhantomKind = "particle", view: View = (0.0, 0.0), seed: int = 0) -> Projection:
    """Projection of a made-up particle of Gaussian pseudo-atoms.

    Parameters
    ----------
    kind
        ``particle`` or ``other``, see :func:`cryorbit.simulation.phantom.phantom_atoms_A`.
    view
        Rot and tilt in degrees.
    seed
        Decides the particle's inner structure.
    """
    return project_atoms(phantom_atoms_A(kind, seed), view_matrix(view), view)


def project_atoms(atoms_A: FloatArray, matrix: FloatArray, view: View) -> Projection:
    """Projection of equal Gaussian pseudo-atoms.

    Parameters
    ----------
    atoms_A
        Their places, shape (atoms, 3), x y z.
    matrix
        Rotation that brings them into the view, shape (3, 3).
    view
        The direction that the projection is said to be seen from.
    """
    turned_A = atoms_A @ matrix.T
    offset_A = (np.arange(PHANTOM_WIDTH_PX) - PHANTOM_WIDTH_PX // 2) * PHANTOM_PIXEL_A
    # A Gaussian is the product of its profiles along x and y, so their sum over atoms is one matrix product.
    x, y = (
        np.exp(-0.5 * ((offset_A[None, :] - turned_A[:, axis, None]) / PHANTOM_ATOM_SIGMA_A) ** 2) for axis in (0, 1)
    )
    return Projection(y.T @ x, PHANTOM_PIXEL_A, *view, volume_A3=len(atoms_A) * RESIDUE_DA * PROTEIN_VOLUME_A3_PER_DA)


def map_projection(
    path: Path, view: View = (0.0, 0.0), voxel_size_A: float | None = None, order: int = 1
) -> Projection:
    """Projection of a cubic MRC map, seen as ``relion_project`` sees it.

    The map turns about voxel n // 2; its header's origin is ignored. The median of the projection's border is
    taken as background and subtracted.

    Parameters
    ----------
    path
        MRC or CCP4 map, also compressed.
    view
        Rot and tilt in degrees.
    voxel_size_A
        Voxel size in Angstrom, for maps whose header has none.
    order
        Of the spline that turns the map, 1 to 5. Linear interpolation damps the map's finest detail, as a little more
        blur would, and is what other simulators do, so that sets compare; order 5 is exact to 0.0004 even on blobs of
        1.2 voxels.

    Raises
    ------
    ParticleDataError
        If the file is missing, not an MRC map, not cubic, without voxel size, or holds values that are not
        numbers.
    """
    volume, voxel_A = read_map(Path(path), voxel_size_A)
    return project_volume(volume, voxel_A, view_matrix(view), view, order)


def project_volume(volume: FloatArray, voxel_A: float, matrix: FloatArray, view: View, order: int = 1) -> Projection:
    """Projection of a map that has been read.

    Parameters
    ----------
    volume
        Shape (n, n, n), z y x.
    voxel_A
        Voxel size in Angstrom.
    matrix
        Rotation that brings it into the view, shape (3, 3).
    view
        The direction that the projection is said to be seen from.
    order
        Of the spline that turns it.
    """
    n, particle_A3 = len(volume), _particle_volume_A3(volume, voxel_A)
    if not np.array_equal(matrix, np.eye(3)):
        # scipy's splines and not Fourier slices: on analytic blobs as sharp as a map may hold (sigma 1.2 voxels) the
        # relative error of order 5 is 0.0004, against 0.01 for torch-fourier-slice padded twofold.
        to_input = matrix[::-1, ::-1].T
        centre = np.full(3, n // 2)
        volume = ndimage.affine_transform(volume, to_input, centre - to_input @ centre, order=order)
    image = volume.sum(axis=0, dtype=np.float64) * voxel_A
    image -= np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    return Projection(image, voxel_A, *view, volume_A3=particle_A3)


def structure_projection(path: Path, view: View = (0.0, 0.0)) -> Projection:
    """Projected electron potential of an atomic model.

    Electron scattering factors of neutral atoms and the model's B-factors count. The first model of the file
    is taken as it stands, without symmetry copies; waters, hydrogens and alternative conformations are left
    out, ligands and ions kept. There is no solvent. The mean of the atoms' positions is the centre.

    Parameters
    ----------
    path
        mmCIF or PDB file, also compressed with gzip.
    view
        Rot and tilt in degrees.

    Raises
    ------
    ParticleDataError
        If the file is missing or holds no atomic model.

    References
    ----------
    International Tables for Crystallography C, table 4.3.2.2, through gemmi.
    """
    density = structure_volume(path, view_matrix(view), MODEL_SPACING_A)
    image = density.volume.sum(axis=0, dtype=np.float64) * density.voxel_A
    return Projection(image, density.voxel_A, *view, volume_A3=density.particle_A3)


@dataclass(frozen=True)
class ModelDensity:
    """The potential of an atomic model on a grid.

    Attributes
    ----------
    volume
        Shape (n, n, n), z y x; the mean of the atoms' positions is at voxel n // 2.
    voxel_A
        Voxel size in Angstrom.
    particle_A3
        The particle's volume, from its mass.
    """

    volume: FloatArray
    voxel_A: float
    particle_A3: float


def structure_volume(path: Path, matrix: FloatArray, spacing_A: float) -> ModelDensity:
    """The potential of an atomic model that has been turned, as :func:`structure_projection` projects it.

    Parameters
    ----------
    path
        mmCIF or PDB file, also compressed with gzip.
    matrix
        The turn, shape (3, 3).
    spacing_A
        Voxel size at most, unless the grid would be too large.

    Raises
    ------
    ParticleDataError
        If the file is missing or holds no atomic model.
    """
    structure = _read_structure(Path(path))
    model = structure[0]
    atoms = [atom for chain in model for residue in chain for atom in residue]
    positions_A = np.array([atom.pos.tolist() for atom in atoms])
    turned_A = (positions_A - positions_A.mean(axis=0)) @ matrix.T
    width_A = 2.0 * (float(np.abs(turned_A).max()) + MODEL_MARGIN_A)
    spacing_A = max(spacing_A, width_A / MODEL_LARGEST_GRID)
    structure.cell = gemmi.UnitCell(width_A, width_A, width_A, 90, 90, 90)
    structure.spacegroup_hm = "P 1"
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min, calculator.rate = 3.0, 1.5 / spacing_A
    calculator.blur = MODEL_BLUR_A2 * spacing_A**2
    calculator.set_grid_cell_and_spacegroup(structure)
    calculator.initialize_grid()
    n = calculator.grid.nu
    for atom, xyz in zip(atoms, turned_A + width_A / n * (n // 2), strict=True):
        atom.pos = gemmi.Position(*xyz)
    calculator.put_model_density_on_grid(model)
    mass_Da = sum(atom.element.weight * atom.occ for atom in atoms) / NOT_HYDROGEN
    # gemmi's grid is indexed x y z.
    volume = np.array(calculator.grid, copy=False).transpose()
    return ModelDensity(volume, width_A / n, mass_Da * PROTEIN_VOLUME_A3_PER_DA)


def read_map(path: Path, voxel_size_A: float | None = None) -> tuple[FloatArray, float]:
    """Voxels of a cubic MRC map in the order z y x, and their size in Angstrom; as :func:`map_projection` reads it."""
    if not path.is_file():
        raise ParticleDataError(f"{path} does not exist; expected a map in MRC format: check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # permissive reading warns of what is checked below
            with mrcfile.open(path, permissive=True) as mrc:
                data, header, voxel = mrc.data, mrc.header, float(mrc.voxel_size.x)
                axes = [int(header.maps), int(header.mapr), int(header.mapc)]
    except (ValueError, OSError, EOFError) as error:
        raise ParticleDataError(f"{path} is not an MRC map ({error}); give a map in MRC or CCP4 format.") from error
    if data is None:
        raise ParticleDataError(f"{path} is not an MRC map or is cut off; copy the file again.")
    if data.ndim != 3 or len(set(data.shape)) != 1:
        raise ParticleDataError(
            f"{path} is {' x '.join(map(str, data.shape[::-1]))} voxels; expected a cube: pad it, for "
            f"instance with relion_image_handler --i {path.name} --o cubic.mrc --new_box {max(data.shape)}."
        )
    voxel_A = voxel if voxel_size_A is None else voxel_size_A
    if not math.isfinite(voxel_A) or voxel_A <= 0:
        raise ParticleDataError(
            f"{path} has a voxel size of {voxel_A:g} A in its header; expected a number above 0: write it "
            "there, for instance with relion_image_handler --force_header_angpix."
        )
    volume = data.astype(np.float64)
    if not np.isfinite(volume).all():
        raise ParticleDataError(f"{path} holds values that are not numbers; expected a map: make it again.")
    if sorted(axes) == [1, 2, 3] and axes != [3, 2, 1]:
        volume = volume.transpose([axes.index(axis) for axis in (3, 2, 1)])
    return volume, voxel_A


def _particle_volume_A3(volume: FloatArray, voxel_A: float) -> float | None:
    """Volume that a uniform particle with this map's sum and sum of squares would have; None where all is negative."""
    step = min(max(1, round(PARTICLE_VOXEL_A / voxel_A)), len(volume))
    cells = len(volume) // step
    kept = volume[: cells * step, : cells * step, : cells * step]
    coarse = kept.reshape(cells, step, cells, step, cells, step).mean(axis=(1, 3, 5))
    inside = coarse[coarse > max(PARTICLE_LEVEL * coarse.max(), 0.0)]
    if not len(inside):
        return None
    return float(inside.sum() ** 2 / np.square(inside).sum()) * (step * voxel_A) ** 3


def _read_structure(path: Path) -> gemmi.Structure:
    if not path.is_file():
        raise ParticleDataError(f"{path} does not exist; expected an atomic model, mmCIF or PDB: check the path.")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise ParticleDataError(
            f"{path} is not an atomic model that can be read ({error}); give an mmCIF or PDB file."
        ) from error
    structure.remove_waters()
    structure.remove_hydrogens()
    structure.remove_alternative_conformations()
    if not len(structure) or not structure[0].count_atom_sites():
        raise ParticleDataError(f"{path} holds no atoms besides water and hydrogen; give a file with a model.")
    return structure


def parse_view(text: str) -> View:
    """Read a viewing direction ``ROT,TILT`` in degrees.

    Raises
    ------
    ConfigurationError
        If the text is not two numbers.
    """
    try:
        rot, tilt = (float(part) for part in text.split(","))
    except ValueError:
        rot = tilt = math.nan
    if not math.isfinite(rot + tilt):
        raise ConfigurationError(f"--view is {text!r}; expected ROT,TILT in degrees, such as 40,65.")
    return rot, tilt


def choose_projection(map_path: Path | None, structure_path: Path | None, phantom: bool, view: View) -> Projection:
    """Projection of the one specimen that was named; of the phantom where none was.

    Raises
    ------
    ConfigurationError
        If more than one was named.
    """
    if sum((map_path is not None, structure_path is not None, phantom)) > 1:
        raise ConfigurationError("--map, --structure and --phantom exclude each other: give one of them.")
    if map_path is not None:
        return map_projection(map_path, view)
    if structure_path is not None:
        return structure_projection(structure_path, view)
    return phantom_projection(view=view)
