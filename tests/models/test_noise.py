import numpy as np
import pytest

from models.noise import MAX_SEED, component_noise, normal_noise

PINNED_NORMALS = [
    [2.2844414710998535, -1.5494507551193237, 1.9245853424072266],
    [1.1078064441680908, 1.594839334487915, -0.38673436641693115],
]
PINNED_UNIFORMS = [0.8133540609793564, 0.7051952190012039]


@pytest.mark.parametrize("dim", [1, 2, 5, 32])
def test_an_item_has_the_same_noise_whatever_run_asks_for_it(dim: int) -> None:
    together = normal_noise(7, offset=0, count=50, dim=dim)
    assert np.array_equal(normal_noise(7, offset=13, count=20, dim=dim), together[13:33])
    assert np.array_equal(component_noise(7, 13, 20), component_noise(7, 0, 50)[13:33])


def test_values_are_pinned() -> None:
    assert normal_noise(0, 0, 2, 3).tolist() == PINNED_NORMALS
    assert component_noise(0, 0, 2).tolist() == PINNED_UNIFORMS


def test_seeds_items_and_streams_differ() -> None:
    values = [normal_noise(s, i, 1, 2) for s in (0, 1, MAX_SEED) for i in (0, 1, 10**12)]
    assert len({v.tobytes() for v in values}) == 9


def test_noise_is_standard_normal() -> None:
    noise = normal_noise(3, 0, 20_000, 7).astype(np.float64)
    n = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(n)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((noise**4).mean() - 3) < 4 * np.sqrt(96 / n)
    assert np.abs(np.corrcoef(noise.T) - np.eye(7)).max() < 5 / np.sqrt(20_000)


def test_component_noise_is_uniform() -> None:
    counts, _ = np.histogram(component_noise(3, 0, 20_000), bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared, 19 degrees of freedom, p < 0.001


def test_a_word_of_ones_gives_finite_normals_and_a_uniform_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ones:
        def __init__(self, **options: object) -> None:
            pass

        def random_raw(self, size: int) -> np.ndarray:
            return np.full(size, 2**64 - 1, np.uint64)

    monkeypatch.setattr(np.random, "Philox", Ones)
    assert component_noise(0, 0, 2).tolist() == [1.0, 1.0]
    assert np.isfinite(normal_noise(0, 0, 2, 3)).all()
