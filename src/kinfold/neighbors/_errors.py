"""How far a product of rows rounded to bfloat16 can be from the similarity of the rows themselves.

For rows x, y of unit length, x̂, ŷ their roundings, and Δx = x − x̂:

    x·y − x̂·ŷ = x·Δy + Δx·ŷ   so that, by Cauchy and Schwarz,   |x·y − x̂·ŷ| ≤ ‖x‖ ‖Δy‖ + ‖Δx‖ ‖ŷ‖.

‖Δx‖ is computed for every row. To this come the errors of summing up D products in float32 on both
sides, at most D roundings of a partial sum each, and the rounding of the result where it leaves in bfloat16.
Every term is taken at its worst, so the bound holds for any order of summation and for units that truncate.
"""

from __future__ import annotations

import torch

WORST_DISTANCE = 1.01 * 2.0**-8
"""Above ‖Δx‖ of any row of unit length: rounding to 8 bits changes an element by at most 2⁻⁸ of itself."""

_SUM_BFLOAT16 = 2.0**-22  # per element: tensor cores truncate, and align a few products at a time
_SUM_FLOAT32 = 1.01 * 2.0**-24
_BLOCK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 26}
_OUTPUT = 2.0**-9  # half of the spacing just below 1, the highest value that counts


def round_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows (n, D) of unit length in bfloat16, and the distance (n,) of each from its rounding."""
    rounded = rows.to(torch.bfloat16)
    distances = torch.empty(len(rows), device=rows.device)
    step = max(1, _BLOCK_BYTES.get(rows.device.type, 1 << 19) // (4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        torch.linalg.vector_norm(rows[block] - rounded[block], dim=1, out=distances[block])
    return rounded, distances * (1 + rows.shape[1] * _SUM_BFLOAT16)


def bound_errors(distances: torch.Tensor, farthest: torch.Tensor, dim: int, rounded: bool) -> torch.Tensor:
    """Return bounds on the difference between products in bfloat16 and similarities in float32.

    Parameters
    ----------
    distances : Tensor (n,)
        ‖Δx‖ of the rows.
    farthest : Tensor ()
        The greatest ‖Δy‖ of all keys.
    dim : int
        D.
    rounded : bool
        Whether products come out in bfloat16.

    Returns
    -------
    Tensor (n,)
        Holds for every pair of the row. Both values are taken at most 1, and the float32 one may be summed
        up in any order.
    """
    length = 1 + dim * _SUM_BFLOAT16  # of a row, which was scaled in float32
    operands = length * (distances + farthest) + distances * farthest
    sums = dim * (_SUM_BFLOAT16 * (length + WORST_DISTANCE) ** 2 + _SUM_FLOAT32 * length**2)
    return operands + sums + (_OUTPUT if rounded else 0.0)
