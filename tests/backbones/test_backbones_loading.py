from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from kinfold.backbones import _efficientnet_lite, _hub, hub_reachable, load_backbone
from kinfold.errors import FormatError, HubUnavailableError, InputError


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache."""
    from huggingface_hub import constants

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake_hub(monkeypatch, no_hub):
    """A hub that answers every request with 404."""
    from huggingface_hub import constants

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def put_in_cache(cache: Path, source: str, folder: Path) -> None:
    """Lay a model into the hub's cache as a download would."""
    home = cache / f"models--{source.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    shutil.copytree(folder, home / "snapshots" / commit)


def test_without_hub_and_cache_the_error_names_the_ways_out(no_hub):
    started = time.monotonic()
    with pytest.raises(HubUnavailableError) as caught:
        load_backbone("dinov2-small", device="cpu")
    assert time.monotonic() - started < 30  # not minutes of retries
    message = str(caught.value)
    assert "facebook/dinov2-small" in message
    assert "local directory" in message
    assert "    hf download facebook/dinov2-small --local-dir dinov2-small\n" in message
    assert "    --backbone ./dinov2-small\n" in message
    assert "--backbone hog" in message
    assert "HF_ENDPOINT" in message


def test_offline_mode_is_named_as_the_reason(no_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_reachable()
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE is set"):
        load_backbone("facebook/some-model", device="cpu")


def test_a_hub_that_answers_is_reachable_whatever_it_says(fake_hub):
    assert hub_reachable()


def test_a_hub_that_is_silent_is_given_up_in_time(no_hub, monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert not hub_reachable(timeout=0.5)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("proxy", ["busy", "password", "page", "silent", "hangs up"])
def test_a_proxy_that_keeps_the_hub_away_is_given_up_without_retries(proxy, no_hub, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    asked, over = [], threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(self.path)
            if proxy == "silent":
                over.wait(20)
            elif proxy != "hangs up":
                self.send_response({"busy": 503, "password": 407}.get(proxy, 200))
                self.send_header("Content-Type", "text/html")
                self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    downloads = []
    download = huggingface_hub.snapshot_download

    def watched(*args, **options):
        downloads.append(options.get("local_files_only", False))
        return download(*args, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(HubUnavailableError, match="can't be reached"):
            _hub.fetch_model("someone/vit", None, timeout=1.0)
    finally:
        over.set()
        server.shutdown()
        server.server_close()
    assert asked == ["/api/models/someone/vit"]  # once
    assert downloads == [True]  # looked into the cache alone


def test_a_cached_card_needs_no_hub_and_keeps_the_cards_preprocessing(no_hub, tiny):
    folder = tiny.save(tiny.make("dinov2"), "model")
    put_in_cache(no_hub, "facebook/dinov2-small", folder)
    backbone = load_backbone("dinov2-small", device="cpu")
    assert backbone.spec == "dinov2-small"
    assert backbone.card.source == "facebook/dinov2-small"
    assert backbone.transform.resize == 256
    assert load_backbone("facebook/dinov2-small", device="cpu").spec == "dinov2-small"


def test_a_cached_hub_id_reads_its_own_preprocessing(no_hub, tiny):
    folder = tiny.save(tiny.make("vit"), "model")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    put_in_cache(no_hub, "someone/vit", folder)
    backbone = load_backbone("someone/vit", device="cpu")
    assert backbone.spec == "someone/vit"
    assert backbone.card.preprocessing.resize is None


def test_half_a_download_in_the_cache_is_not_taken_for_a_model(no_hub, tiny):
    folder = tiny.save(tiny.make("vit"), "model")
    (folder / "model.safetensors").unlink()
    put_in_cache(no_hub, "someone/vit", folder)
    with pytest.raises(HubUnavailableError):
        load_backbone("someone/vit", device="cpu")


def test_shards_that_are_missing_make_a_copy_incomplete(tiny):
    folder = tiny.root / "sharded"
    tiny.make("vit").save_pretrained(folder, max_shard_size="20KB")
    assert _hub.is_complete(folder)
    next(folder.glob("model-*.safetensors")).unlink()
    assert not _hub.is_complete(folder)


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        ("GatedRepoError", InputError, "HF_TOKEN"),
        ("RepositoryNotFoundError", InputError, "did you mean 'facebook/dinov2-base'"),
        ("ConnectionError", HubUnavailableError, "--backbone hog"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(error, expected, says, fake_hub, monkeypatch):
    import huggingface_hub

    errors = importlib.import_module("huggingface_hub.utils")
    kind = getattr(errors, error, None) or getattr(__builtins__, error, ConnectionError)

    def refuse(*_args: object, local_files_only: bool = False, **_options: object) -> str:
        if local_files_only:
            raise FileNotFoundError("nothing cached")
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(expected, match=says):
        load_backbone("facebook/dinov2-bas", device="cpu")


@pytest.mark.parametrize("wrong", ["dinov2-smal", "./absent", "a/b/c", "ibot-vitb16"])
def test_what_is_no_backbone_is_an_input_error(wrong, no_hub):
    with pytest.raises(InputError):
        load_backbone(wrong, device="cpu")


def test_a_wrong_name_gets_the_nearest_right_one(no_hub):
    with pytest.raises(InputError, match="did you mean 'dinov2-small'"):
        load_backbone("dinov2-smal")


def test_a_bare_weights_file_is_told_to_name_its_card(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="ibot-vitb16:"):
        load_backbone(tmp_path / "w.pth")


def test_a_directory_is_loaded_from_anywhere_and_remembers_where(tiny, monkeypatch):
    folder = tiny.save(tiny.make("vit"), "model")
    monkeypatch.chdir(folder.parent)
    backbone = load_backbone("model", device="cpu")
    assert backbone.spec == str(folder)
    assert load_backbone(folder, device="cpu").fingerprint() == backbone.fingerprint()


def test_a_text_only_model_is_refused(tmp_path):
    import transformers

    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match="input_ids and not images"):
        load_backbone(tmp_path / "text", device="cpu")


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit-of-tomorrow"}))
    with pytest.raises(InputError, match="doesn't know models of type 'vit-of-tomorrow'") as caught:
        load_backbone(tmp_path, device="cpu")
    assert "checkpoint you are trying to load" not in str(caught.value)


def test_a_configuration_without_a_model_type_is_told_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="names no model_type"):
        load_backbone(tmp_path, device="cpu")


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.parametrize("damage", ["absent", "truncated", "foreign", "config"])
def test_damaged_weights_are_refused(damage, tiny):
    folder = tiny.save(tiny.make("vit"), "model")
    weights = folder / "model.safetensors"
    if damage == "absent":
        weights.unlink()
    elif damage == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "foreign":
        from safetensors.numpy import save_file

        save_file({"something": np.zeros(3, np.float32)}, weights, metadata={"format": "pt"})
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    with pytest.raises(FormatError, match="model"):
        load_backbone(folder, device="cpu")


def test_weights_of_another_shape_are_refused_in_our_own_words(tiny, capfd):
    folder = tiny.save(tiny.make("vit"), "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(FormatError) as caught:
        load_backbone(folder, device="cpu")
    message = str(caught.value)
    assert str(folder) in message
    assert "don't fit the vit model that its config.json describes" in message
    assert "64 there, the model has 48, and" in message
    assert "config.json and weights of one and the same model" in message
    assert "ignore_mismatched_sizes" not in message + "".join(capfd.readouterr())


def test_weights_that_are_missing_are_named_with_the_model_they_are_for(tiny):
    folder = tiny.save(tiny.make("vit"), "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    with pytest.raises(FormatError, match=r"lacks weights of the vit model .*\.5\..* and \d+ more\. Put"):
        load_backbone(folder, device="cpu")


def test_a_directory_without_weights_is_told_which_file_is_missing(tiny):
    folder = tiny.save(tiny.make("vit"), "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"has no weights: model\.safetensors"):
        load_backbone(folder, device="cpu")


def test_composite_models_of_other_kinds_are_refused_by_name(tmp_path):
    import transformers as tf

    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = tf.BlipConfig(vision_config=vision, text_config={"vocab_size": 20})
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="blip"):
        load_backbone(tmp_path, device="cpu")


def test_loading_leaves_the_logging_of_transformers_as_it_was(tiny):
    from transformers.utils import logging as theirs

    level, bar = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    load_backbone(tiny.save(tiny.make("vit"), "model"), device="cpu")
    assert (theirs.get_verbosity(), theirs.is_progress_bar_enabled()) == (level, bar)


def test_loading_draws_nothing_random_from_the_global_generators(tiny):
    import torch

    folder = tiny.save(tiny.make("vit"), "model")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_backbone(folder, device="cpu")
    assert torch.equal(torch.rand(1), expected)


needs_small = pytest.mark.skipif(
    not _efficientnet_lite.is_installed(), reason="the small network isn't there"
)


@needs_small
def test_auto_is_the_small_network_where_the_hub_is_out_of_reach_and_says_so_once(no_hub, caplog):
    backbone = load_backbone("auto", device="cpu")
    assert (backbone.spec, backbone.variants) == ("efficientnet-lite0", {"cls": 1280})
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "embedded by efficientnet-lite0" in told[0]
    assert "hf download facebook/dinov2-small --local-dir dinov2-small" in told[0]


def test_auto_is_the_better_network_where_it_is_cached(no_hub, tiny, caplog):
    put_in_cache(no_hub, "facebook/dinov2-small", tiny.save(tiny.make("dinov2"), "model"))
    assert load_backbone("auto", device="cpu").spec == "dinov2-small"
    assert not caplog.records


@needs_small
def test_the_first_way_out_is_the_small_network_that_is_installed(no_hub):
    with pytest.raises(HubUnavailableError) as caught:
        load_backbone("dinov2-small", device="cpu")
    message = str(caught.value)
    assert message.index("--backbone efficientnet-lite0") < message.index("local directory that")


def test_without_the_small_network_the_message_says_how_to_get_it(no_hub, monkeypatch):
    monkeypatch.setattr(_efficientnet_lite, "is_installed", lambda: False)
    for name in ("auto", "dinov2-small"):
        with pytest.raises(HubUnavailableError, match=r"pip install 'kinfold\[small\]'"):
            load_backbone(name, device="cpu")
