"""Model folders as people have them: the hub's cache, other libraries' models, paths that lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kinfold.errors import FormatError, InputError, nearest_name
from kinfold.storage import read_json

# Formats of weights that aren't read, by the ends of their files' names, in the order in which they are told.
_FORMATS = {
    ".gguf": "GGUF",
    ".ggml": "GGML",
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".keras": "Keras",
    ".h5": "Keras or TensorFlow",
    "saved_model.pb": "TensorFlow",
    ".msgpack": "Flax",
    ".mlpackage": "Core ML",
    ".mlmodel": "Core ML",
    "openvino_model.xml": "OpenVINO",
    ".engine": "TensorRT",
    ".pt": "PyTorch without a description of the model",
    ".pth": "PyTorch without a description of the model",
    ".ckpt": "a training checkpoint",
}
_WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_URL = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s?#]+/[^/\s?#]+)")
_SHOWN = 5  # names in one message


def find_folder(name: str | Path, *, file_hint: str) -> Path | None:
    """Return the model folder that a path stands for: itself, or the snapshot in the hub's cache layout.

    Parameters
    ----------
    name : str or Path
        What the user gave; a text may also be something else than a path.
    file_hint : str
        What to do with a single file, for the error.

    Returns
    -------
    Path or None
        The absolute folder; None where a text is neither a folder nor meant as a path.

    Raises
    ------
    InputError
        It is a file, or meant as a path and there is no such folder, or it holds no single model.
    """
    path = Path(name)
    try:
        path = path.expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # no such home, too long a name, no permission
        is_folder = is_file = False
    if is_folder:
        return _find_snapshot(path.resolve())
    if is_file and path.parent.name == "refs":
        return _find_snapshot(path.resolve().parent)
    if is_file:
        if (path.parent / "config.json").is_file():
            raise InputError(f"{name} is a file of a model; give its folder {path.parent}")
        raise InputError(f"{name} is a file; {file_hint}")
    url = _URL.match(str(name))
    if url:
        raise InputError(f"{name} is an address; give the model's hub id {url.group(1)}")
    if isinstance(name, Path) or _looks_like_path(name):
        raise InputError(f"there is no folder {_say_absent(name, path)}")
    return None


def say_nearby(name: str) -> str:
    """Return what the folder above holds, for a hub id that may have been meant as a path; else nothing."""
    above = Path(name).parent
    if above == Path() or not above.is_dir():
        return ""
    return f". Nor is there a folder {_say_absent(name, Path(name))}"


def name_folder(folder: Path) -> str:
    """Return what a model folder is called: in the hub's cache the model's id and not the commit's hash."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name or str(folder)


def refuse_foreign(folder: Path) -> None:
    """Raise :class:`InputError` if a folder holds something else than a model of transformers.

    It says what it is, and how it can be used where it can.
    """
    file = folder / "config.json"
    if file.is_symlink() and not file.exists():
        raise InputError(
            f"{file} is a link to a file that isn't there; copy the hub's cache with all that links lead to "
            f"(cp -rL {folder} TARGET), or the whole models--… folder with its blobs"
        )
    config = read_json(file) if file.is_file() else {}
    if not isinstance(config, dict):
        raise FormatError(f"{file} is damaged: it isn't an object")
    if "architecture" in config and config.get("model_type") in (None, "timm_wrapper"):
        raise InputError(_say_timm(folder, str(config["architecture"])))
    if config.get("model_type") is not None:
        return
    what = _say_kind(folder, config)
    if what:
        raise InputError(f"{folder} {what}")
    if not file.is_file():
        raise InputError(
            f"{folder} isn't a model: it has no config.json{_say_parts(folder)}{say_format(folder)}"
        )


def say_format(folder: Path) -> str:
    """Return in words which weights a folder holds that can't be read; nothing where there are none."""
    names = sorted(entry.name for entry in folder.iterdir())
    for ending, kind in _FORMATS.items():
        found = next((name for name in names if name.endswith(ending)), None)
        if found or (ending == ".onnx" and (folder / "onnx").is_dir()):
            return (
                f". Its weights are of {kind} ({found or 'onnx/'}), which Kinfold doesn't read: "
                "get the model with config.json and model.safetensors, as transformers writes it"
            )
    return ""


def say_timm_id(name: str) -> str:
    """Return what to do with a hub id of timm."""
    return (
        f"{name} is a model of timm. Install kinfold[timm] (pip install 'kinfold[timm]') and give "
        f"timm:{name.removeprefix('timm/')}, or timm:NAME:FILE with a file of its weights"
    )


def _find_snapshot(folder: Path) -> Path:
    """Return the folder of the commit where the folder is one of the hub's cache, else the folder."""
    if folder.name in ("snapshots", "refs", "blobs") and folder.parent.name.startswith("models--"):
        folder = folder.parent
    snapshots = folder / "snapshots"
    if not snapshots.is_dir() or (folder / "config.json").is_file():
        return folder if (folder / "config.json").is_file() else _not_the_cache(folder)
    commits = sorted(entry.name for entry in snapshots.iterdir() if entry.is_dir())
    main = folder / "refs" / "main"
    commit = main.read_text("utf-8", errors="replace").strip() if main.is_file() else ""
    if commit in commits:
        return snapshots / commit
    if len(commits) == 1:
        return snapshots / commits[0]
    if not commits:
        raise InputError(
            f"{folder} is a model in the hub's cache that was never downloaded: {snapshots} is empty"
        )
    raise InputError(
        f"{folder} holds {len(commits)} versions of the model and doesn't say which is current; "
        f"give one of them, as in {snapshots / commits[0]}"
    )


def _not_the_cache(folder: Path) -> Path:
    """Return the folder, unless it is the whole cache."""
    models = sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("models--"))
    if not models:
        return folder
    ids = [name.removeprefix("models--").replace("--", "/") for name in models]
    raise InputError(
        f"{folder} is a cache of the hub and not one model; it holds {_list(ids)}: "
        f"give one, as in {folder / models[0]}"
    )


def _say_timm(folder: Path, architecture: str) -> str:
    names = [folder / name for name in _WEIGHTS]
    weights = next((file for file in names if file.is_file()), folder / "model.safetensors")
    return (
        f"{folder} is a model of timm ({architecture}). Install kinfold[timm] (pip install 'kinfold[timm]') "
        f"and give timm:NAME:FILE, here timm:{architecture}:{weights}"
    )


def _say_kind(folder: Path, config: dict[str, Any]) -> str:
    if (folder / "open_clip_config.json").is_file():
        weights = next((name for name in _WEIGHTS if (folder / name).is_file()), _WEIGHTS[1])
        return (
            "is a model of open_clip. Install kinfold[open-clip] (pip install 'kinfold[open-clip]') and give "
            f"open_clip:ARCH/FILE with its architecture, as in open_clip:ViT-B-32/{folder / weights}"
        )
    if (folder / "model_index.json").is_file() or "_diffusers_version" in config or "_class_name" in config:
        return (
            "is a model of diffusers, which makes images; a backbone must be an encoder of images"
            f"{_say_parts(folder)}"
        )
    if (folder / "adapter_config.json").is_file():
        return (
            "is an adapter of PEFT, which changes another model: merge the two (merge_and_unload), save the "
            "result with save_pretrained, and give that folder"
        )
    if (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        return f"is a model of sentence-transformers{_say_parts(folder)}"
    return ""


def _say_parts(folder: Path) -> str:
    """Return in words which folders inside are models of their own."""
    parts = sorted(entry.name for entry in folder.iterdir() if (entry / "config.json").is_file())
    return f"; these of its folders are models, give one of them: {_list(parts)}" if parts else ""


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~", "\\"))
        or name.endswith("/")
        or "\\" in name
        or bool(re.match(r"[A-Za-z]:/", name))
        or name.count("/") > 1
    )


def _say_absent(name: str | Path, path: Path) -> str:
    """Return the path that was looked for, and what lies where it ends."""
    path = path.absolute()
    said = str(name) if str(path) == str(name) else f"{name} (looked for {path})"
    parts = [path, *path.parents]
    try:
        above = next(part for part in parts[1:] if part.is_dir())
        names = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and entry.name[0] != ".")
    except (OSError, StopIteration):
        return said
    wanted = parts[parts.index(above) - 1].name
    holds = f"holds the folders {_list(names)}" if names else "holds no folders"
    return f"{said}: {above} {holds}{nearest_name(wanted, names)}"


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
