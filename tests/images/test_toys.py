import numpy as np
import pytest

from harness import images
from harness.images.toys import MIXTURES

TOYS = list(MIXTURES)

# Run ids on toys rest on them: if a numpy draws other numbers, this is where it shows.
FIRST_POINTS = [("gaussian-1d", (-0.355775,)), ("ring-8", (0.008824, 1.942747)), ("grid-25", (-1.977939, -2.143132))]


@pytest.mark.parametrize("name", TOYS)
def test_the_density_integrates_to_one(name):
    mixture = MIXTURES[name]
    edge, step = mixture.affine().scale[0] / 2, mixture.sigma / 3
    axis = np.arange(-edge, edge + step, step)
    d = len(mixture.means[0])
    total = 0.0
    for row in axis if d == 2 else [None]:
        points = axis[:, None] if row is None else np.stack([np.full_like(axis, row), axis], axis=1)
        total += np.exp(mixture.log_density(points)).sum() * step**d
    assert total == pytest.approx(1, abs=1e-6)


def test_the_standard_normal_has_its_known_log_density():
    log_density = MIXTURES["gaussian-1d"].log_density(np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(log_density, [-0.9189385332046727, -2.9189385332046727], rtol=1e-14)


def test_far_from_all_modes_the_log_density_stays_finite():
    assert np.isfinite(MIXTURES["ring-8"].log_density(np.array([[1e3, -1e3]]))).all()


def test_the_mixtures_are_the_published_ones():
    ring, grid = MIXTURES["ring-8"], MIXTURES["grid-25"]
    assert (ring.sigma, grid.sigma) == (0.02, 0.05)
    angles = np.unwrap([np.arctan2(y, x) for x, y in ring.means])
    np.testing.assert_allclose(np.diff(angles), np.full(7, np.pi / 4))
    np.testing.assert_allclose(np.hypot(*np.transpose(ring.means)), np.full(8, 2.0))
    assert set(grid.means) == {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}


@pytest.mark.parametrize(("name", "first"), FIRST_POINTS)
def test_the_points_are_the_same_for_everyone(name, first):
    data = images.load(name, [])
    np.testing.assert_allclose(data.affine.original(data.train.images[:1])[0], first, atol=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_samples_have_the_moments_of_the_mixture(name):
    mixture, data = MIXTURES[name], images.load(name, [])
    points, means = data.affine.original(data.train.images), np.asarray(mixture.means)
    covariance = np.cov(means.T, bias=True) + mixture.sigma**2 * np.eye(means.shape[1])
    spread = np.sqrt(np.diag(covariance) / len(points))
    assert (np.abs(points.mean(0) - means.mean(0)) < 4 * spread).all()
    np.testing.assert_allclose(np.cov(points.T), covariance.squeeze(), atol=0.02 * covariance.max())


@pytest.mark.parametrize(("name", "modes"), [("ring-8", 8), ("grid-25", 25)])
def test_every_mode_holds_its_share_within_its_standard_deviation(name, modes):
    mixture, data = MIXTURES[name], images.load(name, [])
    offsets = data.affine.original(data.test.images)[:, None] - np.asarray(mixture.means)
    nearest = (offsets**2).sum(-1).argmin(1)
    counts = np.bincount(nearest, minlength=modes)
    assert len(mixture.means) == modes and np.abs(counts / 10_000 - 1 / modes).max() < 0.02
    assert offsets[np.arange(10_000), nearest].std() == pytest.approx(mixture.sigma, rel=0.03)


@pytest.mark.parametrize("name", TOYS)
def test_the_affine_map_and_its_inverse_agree(name):
    affine = images.load(name, []).affine
    points = np.asarray(MIXTURES[name].means)
    unit_points = affine.images(points)
    assert unit_points.shape == (*points.shape, 1, 1) and unit_points.dtype == np.float32
    np.testing.assert_allclose(affine.original(unit_points), points, atol=1e-6 * affine.scale[0])


@pytest.mark.parametrize("name", TOYS)
def test_no_point_is_near_the_edge_of_the_unit_cube(name):
    data, mixture = images.load(name, []), MIXTURES[name]
    room = 2 * mixture.sigma / data.affine.scale[0]
    for split in (data.train, data.validation, data.test):
        assert split.images.min() > room and split.images.max() < 1 - room


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_their_sizes_and_splits_differ(name):
    data = images.load(name, [])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert not np.array_equal(data.validation.images, data.test.images)
