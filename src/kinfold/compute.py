"""What the machine offers: device, precision, cores, memory."""

from __future__ import annotations

import math
import os
import platform
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kinfold.errors import InputError
from kinfold.progress import SILENT, Progress
from kinfold.validation import check_choice, check_integer

if TYPE_CHECKING:
    import torch

_NO_LIMIT = 1 << 60  # the first version of control groups writes a number near 2^63 for none
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
ENGINES = ("auto", "torch", "onnxruntime", "openvino")  # what runs a network that embeds images
PRECISION_VARIABLE = "KINFOLD_PRECISION"  # what "auto" means on this machine, whatever units it has


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device for a name; ``"auto"`` is CUDA, else MPS, else the CPU.

    Raises
    ------
    InputError
        The name is unknown, or this machine has no such device.
    """
    import torch

    if isinstance(device, torch.device):
        return device
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = device.split(":")[0]
    check_choice(DEVICES, device=kind)
    if (kind == "cuda" and not torch.cuda.is_available()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    ):
        raise InputError(f"this machine has no {kind} device that PyTorch can use; use device='cpu'")
    return torch.device(device)


def has_bfloat16_units(device: torch.device) -> bool:
    """Tell whether matrix products in bfloat16 run on units made for them."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = _cpu_flags()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: bfloat16 where the device has units for it, else float32.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` goes by the environment variable ``KINFOLD_PRECISION`` where that is set, else by the
        device: so that machines of different kinds can be told to compute alike.
    device : torch.device
        Where products are made.

    Raises
    ------
    InputError
        The name, or the variable's value, is unknown.
    """
    import torch

    check_choice(PRECISIONS, precision=precision)
    if precision == "auto":
        precision = os.environ.get(PRECISION_VARIABLE) or "auto"
        check_choice(PRECISIONS, **{PRECISION_VARIABLE: precision})
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16_units(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@dataclass(frozen=True)
class Runtime:
    """What a call runs on: resolved once, where the options of the user are read, and handed on as it is.

    Attributes
    ----------
    device : torch.device
        Where to compute.
    dtype : torch.dtype
        Of matrix products: float32 or bfloat16.
    n_workers : int or None
        Processes that decode images; None leaves it to the loader.
    memory : int
        Bytes of main memory that working data may take.
    progress : Progress
        Shows how far long work is.
    engine : str
        What runs the network that embeds images; see :func:`kinfold.backbones.load_backbone`.
    wanted_precision : str
        What the user asked for, which an engine may understand otherwise where it is "auto".
    """

    device: torch.device
    dtype: torch.dtype
    n_workers: int | None
    memory: int
    progress: Progress
    engine: str = "auto"
    wanted_precision: str = "auto"

    @property
    def precision(self) -> str:
        """Name of :attr:`dtype`, as :func:`resolve_precision` takes it: "float32" or "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @classmethod
    def resolve(
        cls,
        device: str | torch.device = "auto",
        precision: str = "auto",
        *,
        n_workers: int | None = None,
        memory: int | None = None,
        progress: Progress = SILENT,
        engine: str = "auto",
    ) -> Runtime:
        """Return the runtime that a user's options name.

        Parameters
        ----------
        device : str or torch.device, default "auto"
            See :func:`resolve_device`.
        precision : {"auto", "float32", "bfloat16"}, default "auto"
            See :func:`resolve_precision`.
        n_workers : int, optional
            0 decodes images in this process.
        memory : int, optional
            Bytes; by default what is free now.
        progress : Progress, default silent
        engine : {"auto", "torch", "onnxruntime", "openvino"}, default "auto"

        Raises
        ------
        InputError
            A name is unknown, the device isn't there, or a number is out of range.
        """
        if n_workers is not None:
            check_integer(0, n_workers=n_workers)
        if memory is not None:
            check_integer(1, memory=memory)
        check_choice(ENGINES, engine=engine)
        where = resolve_device(device)
        use_quota()
        return cls(
            device=where,
            dtype=resolve_precision(precision, where),
            n_workers=n_workers,
            memory=available_memory() if memory is None else int(memory),
            progress=progress,
            engine=engine,
            wanted_precision=precision,
        )


def sampled_products(
    rows: torch.Tensor, others: torch.Tensor, starts: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Return dot products of chosen pairs of rows on the CPU, without copying any row.

    The rounding of a product depends on nothing but its two vectors: not on the other pairs, nor on threads.

    Parameters
    ----------
    rows : Tensor (n, D)
        float32, on the CPU.
    others : Tensor (m, D)
        float32, on the CPU.
    starts : int64 Tensor (n + 1,)
        Row i is multiplied by ``columns[starts[i] : starts[i + 1]]`` of the others.
    columns : int64 Tensor (P,)
        Places in ``others``.

    Returns
    -------
    Tensor (P,)
        float32.
    """
    import torch

    with warnings.catch_warnings():
        # Both the pattern and the product say that sparse matrices are in beta; this use of them is tested.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        pattern = torch.sparse_csr_tensor(
            starts, columns, rows.new_zeros(len(columns)), (len(rows), len(others)), check_invariants=False
        )
        products: torch.Tensor = torch.sparse.sampled_addmm(pattern, rows, others.T, beta=0.0)
        return products.values()


def cpu_count() -> int:
    """Return the number of cores this process may use: those of its affinity and its container's quota."""
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = container_limits().cores
    return max(1, n_cores if quota is None else min(n_cores, math.ceil(quota)))


def use_quota() -> None:
    """Let PyTorch start as many threads as the container's quota has cores, where it would start more.

    Threads beyond the quota only make the kernel halt all of them for most of each period.
    """
    quota = container_limits().cores
    if quota is None or "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    if torch.get_num_threads() > cpu_count():
        torch.set_num_threads(cpu_count())


def total_memory() -> int:
    """Return the bytes of main memory that there are, or that the container may take where that is less."""
    total = int(psutil.virtual_memory().total)
    limit = container_limits().memory
    return total if limit is None else min(total, limit)


def available_memory() -> int:
    """Return the bytes of main memory that can be taken without swapping, or without being killed."""
    free = int(psutil.virtual_memory().available)
    room = container_limits().room()
    return free if room is None else max(0, min(free, room))


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a manifest records of the machine: no names, no paths."""
    import torch

    facts: dict[str, Any] = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": cpu_count(),
        "memory_bytes": total_memory(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("flags"):
                    return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


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
