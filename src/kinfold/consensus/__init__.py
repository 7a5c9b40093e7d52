"""One labeling out of many: consensus functions for cluster ensembles.

Strehl and Ghosh, "Cluster Ensembles: A Knowledge Reuse Framework for Combining Multiple Partitions",
JMLR 2002. Everything works on the label arrays alone; known classes are never seen.
"""

from __future__ import annotations

from kinfold.consensus.ensemble import METHODS, Candidate, Consensus, consensus
from kinfold.consensus.labelings import mean_nmi, pairwise_nmi

__all__ = ["METHODS", "Candidate", "Consensus", "consensus", "mean_nmi", "pairwise_nmi"]
