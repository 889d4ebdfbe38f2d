import math

import pytest

from factlab.estimate import Estimate, t_quantile, wilson
from factlab.words import listed_ranges


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_students_t_as_in_the_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_the_series_continues_the_exact_values():
    assert t_quantile(99) - t_quantile(100) == pytest.approx(
        t_quantile(100) - t_quantile(101), rel=0.05
    )
    assert t_quantile(10**6) == pytest.approx(1.959966, abs=1e-6)


def test_a_mean_has_students_interval():
    estimate = Estimate.of([0.1, 0.4, 0.25, 0.7])
    deviation = math.sqrt((0.2625**2 + 0.0375**2 + 0.1125**2 + 0.3375**2) / 3)
    assert estimate.mean == pytest.approx(0.3625)
    assert estimate.half_width == pytest.approx(3.182446 * deviation / 2)
    low, high = estimate.interval
    assert (low + high) / 2 == pytest.approx(estimate.mean)


def test_few_cases_have_wider_intervals_than_the_normal_ones():
    assert Estimate.of([0.0, 1.0]).half_width == pytest.approx(12.706 * 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("share", "n_cases", "low", "high"),
    [
        (1.0, 4, 0.5101, 1.0),
        (0.0, 4, 0.0, 0.4899),
        (0.5, 10, 0.2366, 0.7634),
        (0.9, 100, 0.8256, 0.9448),
    ],
)
def test_wilson_by_published_values(share, n_cases, low, high):
    assert wilson(share, n_cases) == pytest.approx((low, high), abs=1e-4)


def test_all_of_four_is_not_certain():
    estimate = Estimate.of_shares([1.0] * 4)
    assert estimate.interval == pytest.approx((0.5101, 1.0), abs=1e-4)
    assert estimate.half_width > 0.2


def test_shares_between_stay_in_range():
    low, high = Estimate.of_shares([1.0, 1.0, 0.5]).interval
    assert (high, 0 < low < 0.5) == (1.0, True)
    # Three times one half says little about the spread: as wide as one of two would be.
    assert Estimate.of_shares([0.5] * 3).interval == pytest.approx(wilson(0.5, 3))


@pytest.mark.parametrize("make", [Estimate.of, Estimate.of_shares])
def test_one_case_has_no_interval(make):
    assert (make([0.25]).mean, make([0.25]).has_interval) == (0.25, False)
    assert math.isnan(make([]).mean)


def test_words():
    assert Estimate(0.5, math.nan).in_words() == "0.500"
    assert Estimate(0.5, 0.25).in_words(2, signed=True) == "+0.50 ± 0.25"


def test_ranges_in_words():
    assert listed_ranges([3, 0, 1, 2, 5]) == "0 to 3, 5"
    assert listed_ranges([]) == ""
