from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from kinfold.errors import FormatError, HubUnavailableError, InputError
from kinfold.language import TextEncoder, encoders, load_text_encoder
from support import text_models

TEXTS = [
    "a photo of a cat.",
    "itap of a dog",
    "a",
    "",
    "the quick brown fox jumps over the lazy dog and runs away from ships and trucks and aeroplanes",
    "art of the origami crane in a video game.",
] * 3


def load(folder: Any) -> TextEncoder:
    return load_text_encoder(folder, device="cpu", precision="float32")


def tokenized(folder: Any, texts: list[str]) -> Any:
    """Return the texts as the model's own tokenizer gives them, padded to the full length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")


def text_features(model: Any, inputs: Any) -> np.ndarray:
    with torch.inference_mode():
        output = model.get_text_features(**inputs)
    return getattr(output, "pooler_output", output).numpy()


@pytest.mark.parametrize("name", ["clip", "old clip", "siglip", "siglip 2"])
def test_features_are_those_of_transformers(models, name):
    folder, model = models[name]
    encoder = load(folder)
    expected = text_features(model, tokenized(folder, TEXTS))
    got = encoder.encode(TEXTS)
    assert got.dtype == np.float32
    assert got.shape == (len(TEXTS), encoder.dim) == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-6)
    if name.startswith("siglip"):
        assert encoder.logit_bias == pytest.approx(model.logit_bias.item(), rel=1e-6)


def test_sentence_encoders_give_the_mean_over_tokens(models):
    folder, model = models["bert"]
    inputs = tokenized(folder, TEXTS)
    with torch.inference_mode():
        hidden = model(**inputs).last_hidden_state.double()
    mask = inputs["attention_mask"].double()[:, :, None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    encoder = load(folder)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert encoder.logit_scale is None


def test_sentence_encoders_follow_the_pooling_that_lies_beside_them(models, tmp_path):
    folder = shutil.copytree(models["bert"][0], tmp_path / "copy")
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    with torch.inference_mode():
        hidden = models["bert"][1](**tokenized(folder, TEXTS)).last_hidden_state
    np.testing.assert_allclose(load(folder).encode(TEXTS), hidden[:, 0], rtol=1e-4, atol=1e-5)
    assert load(folder).fingerprint() != load(models["bert"][0]).fingerprint()
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match="pooling_mode_max_tokens"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1_Pooling/config.json", "[]"),
        ("sentence_bert_config.json", "[]"),
        ("sentence_bert_config.json", '{"max_seq_length": "x"}'),
        ("sentence_bert_config.json", '{"max_seq_length": -4}'),
        ("sentence_bert_config.json", '{"max_seq_length": 0}'),
    ],
)
def test_sentence_encoders_with_damaged_settings_are_refused(models, tmp_path, file, content):
    folder = shutil.copytree(models["bert"][0], tmp_path / "bert")
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(content)
    with pytest.raises(FormatError, match="damaged"):
        load(folder)


def test_sentence_encoders_whose_positions_begin_late_take_long_texts(tmp_path):
    from transformers import RobertaConfig, RobertaModel

    tokenizer = text_models.bert_tokenizer(length=10_000)
    pad = tokenizer.pad_token_id
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        pad_token_id=pad,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = load(tmp_path)
    assert encoder._tower.identity["length"] == 20 - pad - 1
    assert np.isfinite(encoder.encode(["dog " * 100, "dog"])).all()


def test_what_follows_the_end_of_a_text_changes_nothing_for_clip(models):
    """Padding is trimmed to the longest of a batch; in float64 the rest is the same to the last digits."""
    folder, model = models["clip"]
    inputs = tokenized(folder, ["a photo of a cat."])
    end = int((inputs["input_ids"][0] == model.config.text_config.eos_token_id).int().argmax()) + 1
    assert end < text_models.CLIP_LENGTH - 5
    double = load(folder)
    double._tower.model.double()
    rubbish = inputs["input_ids"].clone()
    rubbish[0, end:] = torch.arange(5, 5 + rubbish.shape[1] - end)
    with torch.inference_mode():
        trimmed, full, other = (
            double._tower.read(ids, torch.tensor([end]))
            for ids in (inputs["input_ids"][:, :end], inputs["input_ids"], rubbish)
        )
    torch.testing.assert_close(trimmed, full, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(trimmed, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["clip", "siglip", "bert"])
def test_features_do_not_depend_on_batches_or_neighbours(models, name, monkeypatch):
    encoder = load(models[name][0])
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(encoders, "_WINDOW", 5)
    monkeypatch.setitem(encoders._TOKENS, "cpu", 40)
    np.testing.assert_allclose(encoder.encode(TEXTS), together, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))


def test_siglip_reads_lower_case_whatever_its_tokenizer_does(models):
    encoder = load(models["siglip"][0])
    np.testing.assert_array_equal(
        encoder.encode(["A Photo of a CAT."]), encoder.encode(["a photo of a cat."])
    )


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_text_part_alone_gives_the_same_but_for_the_scale(models, name, tmp_path):
    import transformers

    folder, _ = models[name]
    part = {"clip": "CLIPTextModelWithProjection", "siglip": "SiglipTextModel"}[name]
    config = transformers.AutoConfig.from_pretrained(folder).text_config
    config.projection_dim = text_models.DIM
    getattr(transformers, part).from_pretrained(folder, config=config).save_pretrained(tmp_path)
    for file in folder.glob("token*"):
        shutil.copy(file, tmp_path)
    np.testing.assert_array_equal(load(tmp_path).encode(TEXTS), load(folder).encode(TEXTS))
    assert load(tmp_path).logit_scale is None
    assert load(tmp_path).fingerprint() == load(folder).fingerprint()


@pytest.mark.parametrize("form", ["shards", "torch file"])
def test_the_scale_is_found_in_every_form_of_weights(models, form, tmp_path):
    folder, model = models["clip"]
    for file in [*folder.glob("token*"), folder / "config.json"]:
        shutil.copy(file, tmp_path)
    if form == "shards":
        model.save_pretrained(tmp_path, max_shard_size="60KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    else:
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = load(tmp_path)
    assert encoder.logit_scale == load(folder).logit_scale
    np.testing.assert_array_equal(encoder.encode(TEXTS), load(folder).encode(TEXTS))


def test_the_fingerprint_tells_weights_tokenizer_and_precision(models, tmp_path):
    folder = models["clip"][0]
    first = load(folder).fingerprint()
    assert first == load(str(folder)).fingerprint()
    assert load_text_encoder(folder, device="cpu", precision="bfloat16").fingerprint() != first
    text_models.make_clip(tmp_path / "other", dim=16)
    assert load(tmp_path / "other").fingerprint() != first
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["normalizer"] = None
    file.write_text(json.dumps(content), "utf-8")
    assert load(copy).fingerprint() != first


def test_describe_is_json_and_loads_the_same_again(models):
    encoder = load(models["clip"][0])
    facts = json.loads(json.dumps(encoder.describe()))
    again = load_text_encoder(facts["spec"], device="cpu", precision=facts["precision"])
    assert again.fingerprint() == facts["fingerprint"]
    assert facts["dim"] == text_models.DIM


def test_loading_leaves_the_callers_random_numbers_alone(models):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(models["bert"][0])
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_bfloat16_gives_float32_features_that_are_close(models):
    folder = models["clip"][0]
    rough = load_text_encoder(folder, device="cpu", precision="bfloat16").encode(TEXTS)
    fine = load(folder).encode(TEXTS)
    assert rough.dtype == np.float32
    cosines = (rough * fine).sum(1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(fine, axis=1)
    assert cosines.min() > 0.999


def test_no_texts_give_no_rows_and_other_things_are_refused(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim)
    with pytest.raises(InputError, match="single string"):
        encoder.encode("a cat")
    with pytest.raises(InputError, match="number 1 is 3"):
        encoder.encode(["a", 3])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dinov2-small", "dinov2-small has no text tower; clip-vit-b32 has"),
        ("hog", "hog has no text tower; clip-vit-b32 has"),
        ("facebook/dinov2-small", "dinov2-small has no text tower"),
        ("timm:vit_tiny", "no text tower"),
        ("ibot-vitb16:file.pth", "no text tower"),
        ("clip-vit-b33", r"did you mean 'clip-vit-b32'.*openclip-vit-bigg14"),
    ],
)
def test_names_without_text_towers_are_refused_with_what_works(name, words):
    with pytest.raises(InputError, match=words):
        load_text_encoder(name)


def test_a_vision_model_or_half_a_directory_is_refused(models, tmp_path):
    import transformers

    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    with pytest.raises(InputError, match=r"'dinov2', which has no text tower; clip-vit-b32 has"):
        load(tmp_path / "dino")
    models["clip"][1].vision_model.save_pretrained(tmp_path / "vision")
    with pytest.raises(InputError, match="'clip_vision_model', which has no text tower"):
        load(tmp_path / "vision")
    models["clip"][1].save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match=r"has no tokenizer: tokenizer\.json"):
        load(tmp_path / "bare")
    models["clip"][1].text_model.save_pretrained(tmp_path / "unprojected")
    with pytest.raises(InputError, match="without its projection"):
        load(tmp_path / "unprojected")
    blip = transformers.BlipConfig(text_config={"hidden_size": 32}, vision_config={"hidden_size": 32})
    blip.save_pretrained(tmp_path / "blip")
    with pytest.raises(InputError, match="composite model of type 'blip'; of those"):
        load(tmp_path / "blip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        load(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        load(tmp_path / "file")


def test_a_tokenizer_of_another_model_is_refused(models, tmp_path):
    folder = shutil.copytree(models["clip"][0], tmp_path / "copy")
    for file in folder.glob("token*"):
        file.unlink()
    text_models.siglip_tokenizer().save_pretrained(folder)
    with pytest.raises(FormatError, match="isn't the end that the model looks for"):
        load(folder)
    folder = shutil.copytree(models["siglip"][0], tmp_path / "copy2")
    for file in folder.glob("token*"):
        file.unlink()
    text_models.clip_tokenizer().save_pretrained(folder)
    with pytest.raises(FormatError, match="belongs to another model"):
        load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(FormatError, match="can't be loaded"):
        load(folder)


def test_without_the_hub_a_card_says_what_to_give_instead(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnavailableError, match="local directory that holds the model and its tokenizer"):
        load_text_encoder("clip-vit-b32")


def test_a_cards_text_tower_is_found_in_the_hubs_cache(models, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--openai--clip-vit-base-patch32"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = shutil.copytree(models["clip"][0], home / "snapshots" / ("0" * 40))
    for name in ("clip-vit-b32", "openai/clip-vit-base-patch32"):
        encoder = load(name)
        assert (encoder.name, encoder.spec) == ("clip-vit-b32", "clip-vit-b32")
    assert encoder.fingerprint() == load(models["clip"][0]).fingerprint()
    for file in snapshot.glob("token*"):
        file.unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        load("clip-vit-b32")


def test_a_model_that_was_cached_without_its_tokenizer_is_completed(models, monkeypatch, tmp_path):
    import huggingface_hub

    from kinfold.backbones import _hub

    cached = shutil.copytree(models["clip"][0], tmp_path / "cached")
    for file in cached.glob("token*"):
        file.unlink()
    asked: list[str] = []

    def download(source, *, local_files_only=False, allow_patterns=(), **_options):
        if not local_files_only:
            asked.extend(allow_patterns)
            for file in models["clip"][0].glob("token*"):
                shutil.copy(file, cached)
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(_hub, "_has_answer_about", lambda source, timeout: True)
    assert load("clip-vit-b32").fingerprint() == load(models["clip"][0]).fingerprint()
    assert {"tokenizer.json", "tokenizer_config.json", "merges.txt", "model.safetensors"} <= set(asked)
    asked.clear()
    load("clip-vit-b32")
    assert asked == []
