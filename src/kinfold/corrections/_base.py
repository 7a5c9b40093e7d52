"""What corrections and proposals are about: the groups of a run as the model made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinfold.errors import FormatError, KinfoldError
from kinfold.storage import hash_array, hash_json

if TYPE_CHECKING:
    from kinfold.run import Run


def hash_base(run: Run) -> str:
    """Return the hash of a run's rows, groups and their number: of another base, an edit means nothing."""
    rows, labels = run.assignments["row"].to_numpy(), run.labels
    return hash_json([hash_array(rows), hash_array(labels), run.n_clusters])


class Base:
    """The groups that were opened, and whether they are still those of the run.

    Parameters
    ----------
    run : Run
        The run.
    """

    def __init__(self, run: Run) -> None:
        self.hash = hash_base(run)
        self._run = run
        self._seen = self._look()

    def check(self) -> None:
        """Raise :class:`FormatError` if the run was clustered anew since; a look at one file mostly tells.

        Whatever else was changed, names for example, is as good as before; so is a run that is gone.
        """
        found = self._look()
        if found in (None, self._seen):
            return
        try:
            anew = hash_base(type(self._run).open(self._run.path)) != self.hash
        except KinfoldError as error:  # not taken note of: it is looked at again the next time
            raise FormatError(f"{self._run.path} is being changed, or was damaged: {error}") from error
        if anew:
            raise FormatError(
                f"{self._run.path} was clustered anew while it was open: these groups are no longer there. "
                "Open the run again to correct the new ones"
            )
        self._seen = found

    def _look(self) -> tuple[int, int, int] | None:
        """Return what changes when ``manifest.json`` does: its place on the disk, time and size."""
        try:
            status = (self._run.path / "manifest.json").stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
