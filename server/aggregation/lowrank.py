"""Sums of products B A in their factors: norm, best approximation of a rank, never as a dense matrix.

    sum_i B_i A_i = [B_1 B_2 ...] [A_1; A_2; ...] = L R,   L (out, n), R (n, in)

With L = Q_L T_L and R' = Q_R T_R (QR), the n x n matrix T_L T_R' has the norm and the singular values of L R.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Product:
    """A product L R, as its two factors: left (out, n), right (n, in), float64."""

    left: Matrix
    right: Matrix

    @property
    def norm(self) -> float:
        """Frobenius norm of L R."""
        (_, left), (_, right) = np.linalg.qr(self.left), np.linalg.qr(self.right.T)
        return float(np.linalg.norm(left @ right.T))

    def plus(self, other: Product, factor: float = 1.0) -> Product:
        """Return L R + factor * (the other's L R)."""
        left = np.concatenate([self.left, factor * other.left], axis=1)
        return Product(left, np.concatenate([self.right, other.right]))

    def dense(self) -> Matrix:
        """Return L R as a dense matrix."""
        return self.left @ self.right

    def truncated(self, rank: int) -> tuple[Matrix, Matrix, Matrix]:
        """Return (U, S, V'), the best approximation of a rank: shapes (out, k), (k,), (k, in), k at most `rank`."""
        q_left, t_left = np.linalg.qr(self.left)
        q_right, t_right = np.linalg.qr(self.right.T)
        u, s, vt = np.linalg.svd(t_left @ t_right.T, full_matrices=False)
        return q_left @ u[:, :rank], s[:rank], vt[:rank] @ q_right.T
