"""A small VLM of the Idefics3 (SmolVLM) architecture with random weights, for 64x64 images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

IMAGE_SIZE = 64
PATCH = 8
SHUFFLE = 2  # patches that one image token takes together, in each direction
IMAGE_TOKENS = (IMAGE_SIZE // PATCH // SHUFFLE) ** 2
VOCABULARY = 1024
PAD, START, END = "<|im_end|>", "<|im_start|>", "<end_of_utterance>"
SPECIAL = (PAD, START, END, "<image>", "<fake_token_around_image>", "<global-img>")

# One turn a line, as SmolVLM's chats are written.
CHAT_TEMPLATE = (
    "{{ '" + START + "' }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:"
    "{% if message['content'][0]['type'] != 'image' %}{{ ' ' }}{% endif %}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}"
    "{{ '" + END + "\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# Words of a household that the tabletop has not: as in any large vocabulary, hundreds of tokens
# that captions of these scenes never use, some of which may come to stand for actions.
OTHER_WORDS = (
    "almond anchor apple apron armchair balcony banana basket battery bedroom bicycle blanket "
    "blender bottle bracelet bucket butter cabbage calendar camera candle carpet carrot ceiling "
    "cereal charger cheese cherry chimney chocolate cinnamon coffee compass cookie corridor cotton "
    "cousin cupboard curtain cushion daughter dentist diamond dictionary doorbell doughnut dustpan "
    "elephant elevator envelope evening faucet feather fireplace flashlight flower flute football "
    "freezer furniture garage garden garlic giraffe glacier grandmother guitar hairbrush hammer "
    "hammock harvest headphones honey hospital icicle insect island jacket jigsaw journal jungle "
    "kangaroo ketchup kettle keyboard kitchen ladder lantern laundry lemonade lettuce library "
    "lighthouse magazine magnet mailbox marmalade mattress medicine microwave mirror mittens "
    "mountain mushroom mustard napkin needle neighbor notebook nutmeg octopus office orchard oven "
    "paintbrush pancake paper parachute parsley peanut pebble pencil pepper piano pillow pineapple "
    "pitcher planet plumber pocket postcard potato pumpkin pyjamas quilt rabbit radiator raincoat "
    "raspberry refrigerator restaurant ribbon rooster rosemary saddle sailor sandwich saucepan "
    "scarf scissors screwdriver shampoo shelf shoelace shovel shower skateboard sofa spatula "
    "spinach sponge squirrel staircase stapler strawberry suitcase sunflower supper sweater "
    "telephone television thermometer thimble ticket toaster tomato toothbrush towel tractor "
    "trumpet tulip turnip umbrella uncle vacuum vanilla vegetable velvet village vinegar violin "
    "waffle wallet walnut wardrobe waterfall weekend whisk window windmill winter workshop yoghurt "
    "zebra zipper"
)


def build_tokenizer(sentences: Iterable[str], vocab_size: int = VOCABULARY) -> Any:
    """A byte-level BPE tokenizer of `vocab_size` tokens, trained on sentences.

    Merges are numbered by how often they were used, so the last ids are the least used ones.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Twice, because a pair that was seen once is not merged; numbers often, so that each is whole.
    rare = [f" {word}" for word in OTHER_WORDS.split()] * 2
    numbers = [f" {number}" for number in range(100)] * 10
    tokenizer.train_from_iterator([*sentences, *numbers, *rare], trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"The sentences give {tokenizer.get_vocab_size()} tokens, not {vocab_size}; "
            "give more sentences or a smaller vocabulary."
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        padding_side="right",
        model_max_length=2048,
    )


def build_processor(tokenizer: Any) -> Any:
    """The processor of Idefics3: images at 64x64 without tiles, chats by `CHAT_TEMPLATE`."""
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    edge = {"longest_edge": IMAGE_SIZE}
    images = Idefics3ImageProcessor(
        size=edge,
        max_image_size=edge,
        do_image_splitting=False,
        resample=3,  # bicubic: the default, Lanczos, falls back to it with a warning
    )
    return Idefics3Processor(
        images, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE
    )


def build_vlm(
    tokenizer: Any,
    *,
    vision_width: int = 128,
    vision_depth: int = 3,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
) -> Any:
    """An Idefics3ForConditionalGeneration with random weights (about 2 million by default)."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SHUFFLE,
        vision_config=Idefics3VisionConfig(
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
            hidden_size=vision_width,
            intermediate_size=4 * vision_width,
            num_hidden_layers=vision_depth,
            num_attention_heads=vision_width // 32,
            initializer_range=vision_width**-0.5 / 2,
        ),
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": width * 8 // 3,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 2048,
            "initializer_range": width**-0.5 / 2,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    model = Idefics3ForConditionalGeneration(config)
    # As large as the patches' embeddings, so that places count as much as colors from the start.
    model.model.vision_model.embeddings.position_embedding.weight.data.normal_(std=0.3)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
