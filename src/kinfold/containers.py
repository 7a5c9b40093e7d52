"""What the container allows of memory and processor time: control groups of both versions.

Inside a container the system still names the whole machine's memory and cores; who takes more than the
container may have is killed without a word, or halted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_NO_LIMIT = 1 << 60  # the first version of control groups writes a number near 2^63 for none


@dataclass(frozen=True)
class ContainerLimits:
    """What the control groups of this process allow; None where they allow all there is.

    Attributes
    ----------
    memory : int or None
        Bytes, of the group with the lowest limit.
    cores : float or None
        Processor time by wall time: a quota of 1.5 is one and a half cores.
    groups : tuple of (folder, limit)
        The groups that limit memory, with what each allows, innermost first.
    """

    memory: int | None
    cores: float | None
    groups: tuple[tuple[Path, int], ...] = ()

    def room(self) -> int | None:
        """Return the bytes that can still be taken; None without a limit.

        What the group holds of files counts as used there, and is given up by the kernel when memory is
        needed; so it is taken off.
        """
        rooms = [limit - _held(folder) for folder, limit in self.groups]
        return min(rooms) if rooms else None


@lru_cache(maxsize=8)
def container_limits(root: Path = Path("/")) -> ContainerLimits:
    """Return the limits of the container, by control groups of either version.

    Parameters
    ----------
    root : Path
        Below which ``/sys/fs/cgroup`` and ``/proc/self/cgroup`` are.
    """
    memory: list[tuple[Path, int]] = []
    cores: list[float] = []
    for folder in _groups(root, "memory"):
        # memory.high slows a process down to a crawl rather than killing it, which is as little use.
        found = [_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
        limits = [limit for limit in found if limit is not None and limit < _NO_LIMIT]
        if limits:
            memory.append((folder, int(min(limits))))
    for folder in _groups(root, "cpu"):
        words = _words(folder / "cpu.max")
        if len(words) == 2 and words[0] != "max":
            quota, period = _as_number(words[0]), _as_number(words[1])
        else:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period is not None and quota > 0 and period > 0:
            cores.append(quota / period)
    for folder in _groups(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            if n_cores := _count_listed(" ".join(_words(folder / name))):
                cores.append(float(n_cores))
                break
    return ContainerLimits(
        min((limit for _, limit in memory), default=None), min(cores, default=None), tuple(memory)
    )


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of the groups of this process, innermost first, that may limit ``controller``."""
    home = root / "sys/fs/cgroup"
    found: list[Path] = []
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in (*lines, "0::/"):
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        _, controllers, path = parts
        if controllers and controller not in controllers.split(","):
            continue
        tops = [home / controllers, home / controller] if controllers else [home, home / "unified"]
        for top in tops:
            # Seen from inside, a container's path may be the host's, which isn't there: then its top is it.
            below = [part for part in path.split("/") if part not in ("", ".", "..")]
            for depth in range(len(below), -1, -1):
                folder = top.joinpath(*below[:depth])
                if folder not in found and folder.is_dir():
                    found.append(folder)
    return found


def _held(folder: Path) -> int:
    """Return the bytes that a group holds and can't give up."""
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    files = 0.0
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        # Version 1 counts what is below the group as total_inactive_file.
        if name in ("inactive_file", "active_file", "total_inactive_file", "total_active_file"):
            files += (_as_number(value) or 0) * (name.startswith("total_") or not _is_first_version(folder))
    return max(0, int(used - files))


def _is_first_version(folder: Path) -> bool:
    return (folder / "memory.usage_in_bytes").exists()


def _count_listed(text: str) -> int:
    """Return how many cores a list like ``0-3,8`` names; 0 for anything else."""
    count = 0
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return 0
        count += max(0, int(last or first) - int(first) + 1)
    return count


def _number(path: Path) -> float | None:
    words = _words(path)
    return _as_number(words[0]) if words else None


def _as_number(text: str) -> float | None:
    """Return a number; None for ``max`` and for anything else."""
    try:
        return float(int(text))
    except ValueError:
        return None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
