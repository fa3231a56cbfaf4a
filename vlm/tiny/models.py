"""Small models of real architectures with random weights, written as normal Hugging Face folders.

They are what a model of the hub is, but for size and knowledge: configuration class, processor,
chat template and a byte-level BPE tokenizer, trained here on sentences about tabletops.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from vlm.tiny.tokenizers import (
    CHATML,
    IDEFICS,
    LLAVA,
    chatml_tokenizer,
    gemma_tokenizer,
    llama_tokenizer,
    sentences,
    train_tokenizer,
)


def build_tiny_model(
    family: str,
    folder: str | Path,
    *,
    width: int = 48,
    depth: int = 2,
    vocab_size: int = 900,
    image_size: int = 32,
    lines: Iterable[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write a small model of a family to `folder` and return it; `family` is a key of BUILDERS.

    `lines` train its tokenizer (default: `sentences`). ValueError on an unknown family.
    """
    if family not in BUILDERS:
        raise ValueError(f"unknown family {family!r}. There are: {', '.join(BUILDERS)}.")
    folder = Path(folder)
    lines = sentences() if lines is None else lines
    text = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    generator_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        model, processor = BUILDERS[family](text, image_size, list(lines), vocab_size)
    finally:
        torch.set_rng_state(generator_state)
    model.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    return folder


def _vision(width: int, image_size: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 8,
        **more,
    }


def _gpt2(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    end = "<|endoftext|>"
    tokenizer = train_tokenizer(lines, vocab_size, [end], bos_token=end, eos_token=end)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=text["hidden_size"],
        n_layer=text["num_hidden_layers"],
        n_head=text["num_attention_heads"],
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config), tokenizer


def _llama(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = llama_tokenizer(lines, vocab_size, [])
    return LlamaForCausalLM(LlamaConfig(**text, vocab_size=len(tokenizer))), tokenizer


def _qwen2(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = chatml_tokenizer(lines, vocab_size)
    config = Qwen2Config(**text, vocab_size=len(tokenizer), tie_word_embeddings=True)
    return Qwen2ForCausalLM(config), tokenizer


def _qwen3(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = chatml_tokenizer(lines, vocab_size)
    config = Qwen3Config(**text, vocab_size=len(tokenizer), head_dim=16, tie_word_embeddings=True)
    return Qwen3ForCausalLM(config), tokenizer


def _gemma2(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = {**text, "head_dim": 16, "final_logit_softcapping": 3.0, "sliding_window": 512}
    tokenizer = gemma_tokenizer(lines, vocab_size)
    return Gemma2ForCausalLM(Gemma2Config(**config, vocab_size=len(tokenizer))), tokenizer


def _paligemma(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    tokenizer = gemma_tokenizer(lines, vocab_size)
    images: Any = SiglipImageProcessor(size={"height": image_size, "width": image_size})
    images.image_seq_length = (image_size // 8) ** 2
    processor = PaliGemmaProcessor(images, tokenizer)
    width = text["hidden_size"]
    more: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = PaliGemmaConfig(
        vision_config=_vision(width, image_size, model_type="siglip_vision_model")
        | {"projection_dim": width, "vision_use_head": False},
        text_config={**text, "model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 16},
        image_token_index=processor.image_token_id,
        projection_dim=width,
        hidden_size=width,
        **more,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _idefics_tokens() -> list[str]:
    cells = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    return ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *cells]


def _idefics3(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    tokenizer = train_tokenizer(
        lines, vocab_size, [begin, end, "<pad>", *_idefics_tokens()],
        bos_token=begin, eos_token=end, pad_token="<pad>",
    )  # fmt: skip
    config = Idefics3Config(**_idefics_sizes(text, image_size, tokenizer, "llama"))
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**_idefics_images(image_size)),
        tokenizer,
        image_seq_len=_idefics_length(image_size),
        chat_template=IDEFICS.replace("START", begin),
    )
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    start, end = "<|im_start|>", "<end_of_utterance>"
    tokenizer = train_tokenizer(
        lines, vocab_size, ["<|endoftext|>", start, "<|im_end|>", "<video>", *_idefics_tokens()],
        bos_token=start, eos_token=end, pad_token="<|im_end|>",
    )  # fmt: skip
    config = SmolVLMConfig(**_idefics_sizes(text, image_size, tokenizer, "llama"))
    video = _idefics_images(image_size)
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**_idefics_images(image_size)),
        tokenizer,
        SmolVLMVideoProcessor(size=video["max_image_size"], max_image_size=video["max_image_size"]),
        image_seq_len=_idefics_length(image_size),
        chat_template=IDEFICS.replace("START", start),
    )
    return SmolVLMForConditionalGeneration(config), processor


def _idefics_length(image_size: int) -> int:
    return (image_size // 8) ** 2 // 4


def _idefics_images(image_size: int) -> dict[str, Any]:
    largest = {"longest_edge": image_size}
    return {"size": {"longest_edge": 4 * image_size}, "max_image_size": largest}


def _idefics_sizes(text: dict, image_size: int, tokenizer: Any, kind: str) -> dict[str, Any]:
    vocab = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return {
        "vision_config": _vision(text["hidden_size"], image_size),
        "text_config": {**text, **vocab, "model_type": kind},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen_vl(
    kind: str, text: dict, image_size: int, lines: list[str], vocab_size: int
) -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = chatml_tokenizer(lines, vocab_size)
    patch = 8
    images = hf.Qwen2VLImageProcessor(
        patch_size=patch, min_pixels=(2 * patch) ** 2, max_pixels=image_size**2
    )
    video_class = hf.Qwen3VLVideoProcessor if kind == "Qwen3VL" else hf.Qwen2VLVideoProcessor
    processor = getattr(hf, f"{kind}Processor")(
        images, tokenizer, video_class(patch_size=patch), chat_template=CHATML
    )
    head_width = 16 if kind == "Qwen3VL" else text["hidden_size"] // text["num_attention_heads"]
    pairs, quarter = head_width // 2, head_width // 8
    # The channels of a head, in pairs: by time, row and column.
    sections = [pairs - 2 * quarter, quarter, quarter]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 10000.0}
    language = {**text, "vocab_size": len(tokenizer), "rope_parameters": rope}
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": text["hidden_size"],
        "patch_size": patch,
    }
    if kind == "Qwen3VL":
        language |= {"head_dim": head_width}
        rope["mrope_interleaved"] = True
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    else:
        vision |= {"window_size": 4 * patch, "fullatt_block_indexes": [1]}
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"), ("video", "video_pad"),
            ("vision_start", "vision_start"), ("vision_end", "vision_end"),
        )
    }  # fmt: skip
    config = getattr(hf, f"{kind}Config")(
        text_config=language, vision_config=vision, tie_word_embeddings=True, **ids
    )
    return getattr(hf, f"{kind}ForConditionalGeneration")(config), processor


def _qwen2_5_vl(text: dict, size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    return _qwen_vl("Qwen2_5_VL", text, size, lines, vocab_size)


def _qwen3_vl(text: dict, size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    return _qwen_vl("Qwen3VL", text, size, lines, vocab_size)


def _llava_next(text: dict, image_size: int, lines: list[str], vocab_size: int) -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = llama_tokenizer(lines, vocab_size, ["<image>"])
    grid = [[image_size, 2 * image_size], [2 * image_size, image_size]]
    square = {"height": image_size, "width": image_size}
    images = LlavaNextImageProcessor(
        size={"shortest_edge": image_size}, crop_size=square, image_grid_pinpoints=grid
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    config = LlavaNextConfig(
        vision_config=_vision(text["hidden_size"], image_size, model_type="clip_vision_model"),
        text_config={**text, "model_type": "llama", "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=(image_size // 8) ** 2,
    )
    return LlavaNextForConditionalGeneration(config), processor


BUILDERS: dict[str, Any] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava_next": _llava_next,
}
