"""The best pairs, against one matrix of all rows and columns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from esam_rt.tracking.assignment import assign


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_is_that_of_the_whole_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 25, 2)
    matrix = rng.random((rows, columns)) * (rng.random((rows, columns)) < rng.choice([0.05, 0.2, 1]))
    row, column = np.nonzero(matrix)
    order = rng.permutation(len(row))
    found_rows, found_columns = assign(row[order], column[order], matrix[row, column][order])
    assert len(set(found_rows)) == len(set(found_columns)) == len(found_rows)
    assert (matrix[found_rows, found_columns] > 0).all()
    best = matrix[linear_sum_assignment(matrix, maximize=True)].sum()
    assert matrix[found_rows, found_columns].sum() == pytest.approx(best)


def test_many_entities_need_no_matrix_of_all() -> None:
    """60,000 rows and columns would need 29 GB."""
    index = np.arange(60_000)
    rows, columns = assign(index, index[::-1].copy(), np.ones(60_000))
    np.testing.assert_array_equal(rows + columns, 59_999)


def test_nothing() -> None:
    nothing = np.zeros(0, np.int64)
    assert [len(found) for found in assign(nothing, nothing, np.zeros(0))] == [0, 0]
