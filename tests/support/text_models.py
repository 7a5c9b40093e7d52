"""Small vision-language models of random weights with real tokenizers, saved as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "a photo of the large cat.",
    "itap of a dog.",
    "a bad photo of the small horse.",
    "art of the origami crane in a video game.",
    "The quick brown fox jumps over the lazy dog; 1234567890 trucks, ships and aeroplanes!",
]
DIM, CLIP_LENGTH, SIGLIP_LENGTH = 24, 20, 24


def randomise(model: torch.nn.Module, seed: int = 1) -> None:
    """Give every weight a value that matters: fresh models have biases of zero and tiny projections."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))


def clip_tokenizer(*, length: int = CLIP_LENGTH) -> Any:
    """Byte-level BPE as CLIP's: lower case, start and end tokens, the end token with the highest id."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator([text.lower() for text in CORPUS], trainer)
    content = json.loads(trained.to_str())["model"]
    vocabulary = dict(content["vocab"])
    for token in [f"{letter}</w>" for letter in sorted(alphabet)] + ["<|startoftext|>", "<|endoftext|>"]:
        vocabulary.setdefault(token, len(vocabulary))
    start, end = (vocabulary[token] for token in ("<|startoftext|>", "<|endoftext|>"))
    merges = [tuple(merge) for merge in content["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", start), ("<|endoftext|>", end)],
    )
    return _fast(
        tokenizer,
        length,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def siglip_tokenizer(*, length: int = SIGLIP_LENGTH) -> Any:
    """BPE with byte fallback as Gemma's, an end token, and padding; case is kept."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=220, special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], show_progress=False
    )
    tokenizer.train_from_iterator([text.lower() for text in CORPUS] + ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.token_to_id("<eos>"))]
    )
    return _fast(
        tokenizer,
        length,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        mask_token="<mask>",
        model_input_names=["input_ids"],
        padding_side="right",
    )


def bert_tokenizer(*, length: int = 32) -> Any:
    """WordPiece as BERT's, with ``[CLS]`` and ``[SEP]``."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return _fast(
        tokenizer, length, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def make_clip(folder: Path, *, legacy_end: bool = False, dim: int = DIM) -> Any:
    """Save a whole CLIP model with its tokenizer and return it.

    ``legacy_end`` writes the end token as configurations before 2023 did: 2.
    """
    from transformers import CLIPConfig, CLIPModel

    tokenizer = clip_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shape,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CLIP_LENGTH,
            "eos_token_id": 2 if legacy_end else tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": 1,
        },
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        projection_dim=dim,
    )
    return _save(CLIPModel, config, tokenizer, folder)


def make_siglip(folder: Path, *, second: bool = False) -> Any:
    """Save a whole SigLIP (or SigLIP 2) model with its tokenizer and return it."""
    import transformers

    tokenizer = siglip_tokenizer()
    shape = {"hidden_size": DIM, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**shape, "patch_size": 8, **({"num_patches": 16} if second else {"image_size": 32})}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": SIGLIP_LENGTH,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.eos_token_id,
        "projection_size": DIM,
    }
    kind = "Siglip2" if second else "Siglip"
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    return _save(getattr(transformers, f"{kind}Model"), config, tokenizer, folder)


def make_sentence_encoder(folder: Path) -> Any:
    """Save a BERT with its tokenizer and return it."""
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    return _save(BertModel, config, tokenizer, folder)


def _fast(tokenizer: Tokenizer, length: int, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **options)


def _save(model_class: Any, config: Any, tokenizer: Any, folder: Path) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
    randomise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
