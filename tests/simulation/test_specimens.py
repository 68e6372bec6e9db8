"""Specimens against closed formulas: Gaussian blobs and single atoms."""

from __future__ import annotations

import gemmi
import mrcfile
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from cryorbit.errors import ConfigurationError, ParticleDataError
from cryorbit.simulation import Projection, map_projection, phantom_projection, structure_projection
from cryorbit.simulation.phantom import phantom_atoms_A
from cryorbit.simulation.specimens import view_matrix

BOX, VOXEL_A, SIGMA_A = 48, 4.0, 7.0
CENTRES_A = np.array([[30.0, 8.0, -20.0], [-25.0, 30.0, 12.0], [5.0, -36.0, 28.0]])
VIEWS = [(0.0, 0.0), (35.0, 70.0), (-120.0, 140.0), (90.0, 0.0)]


def write_map(path, volume, voxel_A=VOXEL_A):
    with mrcfile.new(path, data=volume.astype(np.float32)) as mrc:
        mrc.voxel_size = voxel_A
    return path


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    offset = (np.arange(BOX) - BOX // 2) * VOXEL_A
    profile = [np.exp(-0.5 * ((offset - CENTRES_A[:, axis, None]) / SIGMA_A) ** 2) for axis in range(3)]
    volume = np.einsum("az,ay,ax->zyx", profile[2], profile[1], profile[0])
    return write_map(tmp_path_factory.mktemp("maps") / "blobs.mrc", volume)


def exact_projection(projection, view):
    """The blobs' line integral: a projected Gaussian is a Gaussian."""
    m = len(projection.image)
    offset = (np.arange(m) - m // 2) * projection.pixel_size_A
    seen = CENTRES_A @ view_matrix(view).T
    x, y = (np.exp(-0.5 * ((offset - seen[:, axis, None]) / SIGMA_A) ** 2) for axis in (0, 1))
    return SIGMA_A * np.sqrt(2 * np.pi) * y.T @ x


@pytest.mark.parametrize("view", VIEWS)
def test_projected_map_is_the_line_integral(blobs, view):
    projection = map_projection(blobs, view, order=5)
    exact = exact_projection(projection, view)
    assert np.linalg.norm(projection.image - exact) < 2e-3 * np.linalg.norm(exact)
    assert (projection.rot_deg, projection.tilt_deg) == view


def test_rot_without_tilt_is_an_in_plane_turn():
    seen = np.array([10.0, 0.0, 3.0]) @ view_matrix((90.0, 0.0)).T
    np.testing.assert_allclose(seen, [0.0, -10.0, 3.0], atol=1e-12)


def test_opposite_views_are_mirror_images(blobs):
    front, back = (map_projection(blobs, (0.0, tilt)).image for tilt in (0.0, 180.0))
    np.testing.assert_allclose(front[1:, 1:], back[1:, 1:][:, ::-1], atol=1e-3 * front.max())


def test_axis_order_of_the_header_is_followed(blobs, tmp_path):
    turned = tmp_path / "turned.mrc"
    with mrcfile.new(turned, data=mrcfile.read(blobs).transpose(2, 1, 0).copy()) as mrc:
        mrc.voxel_size = VOXEL_A
        mrc.header.mapc, mrc.header.maps = 3, 1
    np.testing.assert_allclose(map_projection(turned).image, map_projection(blobs).image, atol=1e-9)


@pytest.mark.parametrize("kind", ["particle", "other"])
def test_phantom_is_a_sum_of_gaussian_atoms(kind):
    projection, atoms_A = phantom_projection(kind), phantom_atoms_A(kind)
    expected = len(atoms_A) * 2 * np.pi * 3.0**2
    assert projection.image.sum() * projection.pixel_size_A**2 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_phantom_is_about_250_A_wide_and_centred(seed):
    atoms_A = phantom_atoms_A("particle", seed)
    assert 235 < pdist(atoms_A[::4]).max() < 265
    assert np.linalg.norm(atoms_A, axis=1).max() < 135
    np.testing.assert_allclose(atoms_A.mean(axis=0), 0.0, atol=1e-9)


def test_phantom_depends_on_its_seed_only():
    np.testing.assert_array_equal(phantom_projection(seed=3).image, phantom_projection(seed=3).image)
    assert not np.allclose(phantom_projection(seed=3).image, phantom_projection(seed=4).image)


@pytest.mark.parametrize("view", [(0.0, 0.0), (0.0, 90.0), (90.0, 90.0)])
def test_phantom_has_no_symmetry(view):
    """Neither a turn nor a mirror brings the phantom close to itself."""
    image = phantom_projection(view=view).image[1:, 1:]
    for same in (image[::-1, ::-1], image[::-1], image[:, ::-1], image.T, np.rot90(image)):
        assert np.corrcoef(image.ravel(), same.ravel())[0, 1] < 0.8


def write_model(path, positions, elements, b_factor=30.0):
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, (position, element) in enumerate(zip(positions, elements, strict=True), start=1):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = ("HOH" if element == "O" else "ALA"), gemmi.SeqId(str(number))
        atom.name, atom.element, atom.pos = element, gemmi.Element(element), gemmi.Position(*position)
        atom.occ, atom.b_iso = 1.0, b_factor
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return path


def mean_position_A(projection, near_A, radius_A=6.0):
    """Centroid of the density near a place, relative to the image's centre."""
    m = len(projection.image)
    offset = (np.arange(m) - m // 2) * projection.pixel_size_A
    x, y = np.meshgrid(offset, offset)
    weight = projection.image * (np.hypot(x - near_A[0], y - near_A[1]) < radius_A)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("view", VIEWS)
def test_atoms_appear_where_the_view_puts_them(tmp_path, view):
    positions = np.array([[100.0, 0.0, 0.0], [120.0, 31.0, 7.0], [83.0, -9.0, 26.0]])
    projection = structure_projection(write_model(tmp_path / "model.cif", positions, "CCC"), view)
    for seen in (positions - positions.mean(axis=0)) @ view_matrix(view).T:
        np.testing.assert_allclose(mean_position_A(projection, seen[:2]), seen[:2], atol=0.1)


def test_water_and_hydrogen_do_not_count(tmp_path):
    positions = [[0.0, 0.0, 0.0], [20.0, 0.0, 0.0], [0.0, 40.0, 0.0], [0.0, 0.0, 60.0]]
    some = structure_projection(write_model(tmp_path / "some.cif", positions[:2], "CC"))
    more = structure_projection(write_model(tmp_path / "more.cif", positions, "CCOH"))
    np.testing.assert_allclose(more.image, some.image, atol=1e-6)


def test_heavier_atoms_scatter_electrons_more(tmp_path):
    light, heavy = (
        structure_projection(write_model(tmp_path / f"{e}.cif", [[0, 0, 0], [9, 0, 0]], [e, e])).image.sum()
        for e in ("C", "P")
    )
    # Mean inner potential of the neutral atoms at zero angle: 2.51 A for carbon, 5.49 A for phosphorus.
    assert heavy / light == pytest.approx(5.49 / 2.51, rel=0.05)


def test_volume_of_a_model_is_that_of_its_mass(tmp_path):
    model = structure_projection(write_model(tmp_path / "model.cif", np.eye(3) * 30.0, "CNC"))
    # 38 Da without hydrogen, which is 7 % of a protein; 1.21 cubic Angstrom for each.
    assert model.volume_A3 == pytest.approx((2 * 12.011 + 14.007) / 0.93 * 1.21, rel=1e-3)


def test_volume_of_a_map_without_anything_positive_is_not_known(tmp_path):
    volume = -np.ones((8, 8, 8), dtype=np.float32)
    volume[4, 4, 4] = -2.0
    assert map_projection(write_map(tmp_path / "dark.mrc", volume)).volume_A3 is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.mrc", "does not exist"),
        ("text.mrc", "is not an MRC map"),
        ("flat.mrc", r"is 8 x 8 x 6 voxels; expected a cube: pad it"),
        ("stack.mrc", r"is 8 x 8 voxels; expected a cube"),
        ("unscaled.mrc", "has a voxel size of 0 A"),
        ("holes.mrc", "values that are not numbers"),
        ("empty.mrc", "constant"),
    ],
)
def test_unusable_maps_are_refused_with_a_remedy(tmp_path, name, sentence):
    cube = np.random.default_rng(0).normal(size=(8, 8, 8))
    (tmp_path / "text.mrc").write_text("HEADER    NOT A MAP\n" * 100)
    write_map(tmp_path / "flat.mrc", cube[:6])
    write_map(tmp_path / "stack.mrc", cube[0])
    write_map(tmp_path / "unscaled.mrc", cube, voxel_A=0.0)
    write_map(tmp_path / "empty.mrc", np.zeros((8, 8, 8)))
    cube[1, 2, 3] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN"):
        write_map(tmp_path / "holes.mrc", cube)
    with pytest.raises(ParticleDataError, match=sentence):
        map_projection(tmp_path / name)


def test_voxel_size_can_be_given_for_a_map_without_one(tmp_path, blobs):
    path = write_map(tmp_path / "unscaled.mrc", mrcfile.read(blobs), voxel_A=0.0)
    np.testing.assert_allclose(map_projection(path, voxel_size_A=VOXEL_A).image, map_projection(blobs).image)


def test_unusable_models_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(ParticleDataError, match="does not exist"):
        structure_projection(tmp_path / "missing.cif")
    (tmp_path / "text.cif").write_text("not a model")
    with pytest.raises(ParticleDataError, match="give an mmCIF or PDB file"):
        structure_projection(tmp_path / "text.cif")
    with pytest.raises(ParticleDataError, match="no atoms besides water"):
        structure_projection(write_model(tmp_path / "wet.cif", [[0, 0, 0]], "O"))


def test_projections_check_themselves():
    with pytest.raises(ParticleDataError, match="expected a square"):
        Projection(np.eye(4)[:3], 1.0)
    with pytest.raises(ConfigurationError, match="Pixel size is 0"):
        Projection(np.eye(4), 0.0)
