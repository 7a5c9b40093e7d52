"""The running best candidates of many rows by dense selections: the host needn't wait for any of them."""

from __future__ import annotations

import torch

from kinfold.neighbors._packed import EMPTY, pack, values_of
from kinfold.neighbors._rule import Rule


class TopReservoir:
    """Candidates of a range of rows, merged by selections whose shapes are known beforehand.

    Nothing is read back to the host while blocks come by, so that a GPU's products and selections queue up.
    Every row keeps its ``rule.at_most`` best; the rest of the rule is the caller's. Which of several entries
    that equal a row's floor are kept is open. Takes blocks as ``Reservoir`` does.

    Parameters
    ----------
    n_rows : int
        Rows that are searched for.
    rule : Rule
        How many each keeps.
    device : torch.device
        Where the blocks are.
    """

    def __init__(self, n_rows: int, rule: Rule, device: torch.device) -> None:
        self._keys = torch.full((n_rows, rule.at_most), EMPTY, dtype=torch.int64, device=device)

    def offer(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (rows, keys) of rows from ``row_start`` with keys from ``key_start``."""
        room = self._keys[row_start : row_start + len(block)]
        width = room.shape[1]
        values, columns = block.topk(min(width, block.shape[1]), dim=1, sorted=False)
        packed = torch.where(values == -torch.inf, EMPTY, pack(values, columns + key_start))
        room.copy_(torch.cat([room, packed], dim=1).topk(width, dim=1).values)

    def offer_transposed(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (keys, rows): the same block, seen from its columns."""
        self.offer(block.T.contiguous(), row_start, key_start)

    def best(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the packed candidates of a range of rows, best first, and their floors.

        Nothing that a row saw and that isn't among its candidates is above its floor. The candidates
        (rows, ``rule.at_most``) are the reservoir's own memory.
        """
        keys = self._keys[start:stop]
        return keys, values_of(keys[:, -1])
