"""Assigns rows to columns, one to one, so that the sum of the scores is highest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def assign(
    rows: NDArray[np.integer], columns: NDArray[np.integer], score: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose pairs so that each row and each column occurs once at most and the sum of the scores is highest.

    Pairs that do not hang together are solved apart: an entity meets few others, and a matrix of all of them would need
    gigabytes for 65,535 entities.

    Args:
        rows: Row of each possible pair, int [P].
        columns: Column of each possible pair, int [P]. No pair occurs twice.
        score: Score of each pair, float [P], above 0.

    Returns:
        Rows and columns of the chosen pairs, int64 [K] each.
    """
    if len(rows) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    row_names, row = np.unique(rows, return_inverse=True)
    column_names, column = np.unique(columns, return_inverse=True)
    size = len(row_names) + len(column_names)
    graph = coo_array((np.ones(len(row)), (row, len(row_names) + column)), shape=(size, size))
    _, group = connected_components(graph, directed=False)
    order = np.argsort(group[row], kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[row][order])) + 1)
    lone = np.array([part[0] for part in parts if len(part) == 1], np.intp)
    lone = lone[score[lone] > 0]
    chosen_rows, chosen_columns = [rows[lone]], [columns[lone]]
    for part in (part for part in parts if len(part) > 1):
        r, r_at = np.unique(row[part], return_inverse=True)
        c, c_at = np.unique(column[part], return_inverse=True)
        matrix = np.zeros((len(r), len(c)))
        matrix[r_at, c_at] = score[part]
        r_best, c_best = linear_sum_assignment(matrix, maximize=True)
        possible = matrix[r_best, c_best] > 0
        chosen_rows.append(row_names[r[r_best[possible]]])
        chosen_columns.append(column_names[c[c_best[possible]]])
    return np.concatenate(chosen_rows).astype(np.int64), np.concatenate(chosen_columns).astype(np.int64)
