"""The workload whose cost is counted: three questions about a group, their answers, in tokens.

Prompts and answers are those of prompts.py. CALICO-7B uses Llama's tokens. To count them, only the
places are needed where Llama's tokenizer splits our few wordings, not its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from calico_model import presets, prompts
from calico_model.config import CalicoConfig
from calico_model.data.collate import Turn, collate_prompts
from calico_model.errors import InvalidConfigError
from calico_model.modeling.language import Conversations
from calico_model.presets import small_tokenizer
from calico_model.prompts import Phrase
from calico_model.tokenizer import Tokenizer
from calico_model.types import RegionKind

_COMMON_PARTS = ("seat", "back", "leg")
_UNIQUE_PARTS = ("arm", "wheel", "door", "handle", "lamp", "pillow", "lid", "string")
# Where Llama's tokenizer splits words of our wordings; every other word is one token.
_LLAMA_PIECE = (
    r"US(?=ER)|A(?=SS)|SS(?=IST)|IST(?=ANT)|over(?=view)|pol(?=ite)|Part(?=s found)"
    r"|\)[.,]|[A-Za-z]+|[^\sA-Za-z]|\n"
)


@dataclass(frozen=True)
class Workload:
    """Three questions about one group.

    Attributes:
        images: number of images in the group.
        prompts: the three prompts.
        answer_tokens: length of each answer, the end token included.
        masks: number of masks to decode for all three; object masks in part answers do not count.
    """

    images: int
    prompts: tuple[str, ...]
    answer_tokens: tuple[int, ...]
    masks: int

    def conversations(self, tokenizer: Tokenizer, queries: int) -> Conversations:
        """Layout of all three prompts in one batch, padded on the left."""
        all_images = tuple(range(self.images))
        turns = [Turn(prompt, "", all_images) for prompt in self.prompts]
        return collate_prompts(turns, tokenizer, queries)


def typical_workload(
    config: CalicoConfig, images: int, tokenizer: Tokenizer, answer_tokens: int | None = None
) -> Workload:
    """An object in every image, three parts common to all, and one unique part per image.

    Args:
        config: provides the system prompt.
        images: number of images, 1 to 8.
        tokenizer: counts the tokens of the answers.
        answer_tokens: length of each of the three answers; None counts the answers written here.
    """
    everywhere = tuple(range(images))
    objects = [Phrase("chair", everywhere, True)]
    common = [Phrase(name, everywhere, False) for name in _COMMON_PARTS]
    unique = [Phrase(_UNIQUE_PARTS[k], (k,), False) for k in everywhere]
    parts: dict[RegionKind, list[Phrase]] = {
        RegionKind.COMMON_OBJECT: [],
        RegionKind.COMMON_PART: common,
        RegionKind.UNIQUE_PART: unique,
    }
    answers = [prompts.write_answer(kind, objects, parts[kind]) for kind in RegionKind]
    counted = tuple(len(tokenizer.encode(answer)) for answer in answers)
    return Workload(
        images,
        tuple(
            prompts.conversation(prompts.QUESTIONS[kind][0], images, config.system_prompt)
            for kind in RegionKind
        ),
        counted if answer_tokens is None else (answer_tokens,) * len(answers),
        sum(len(phrase.images) for phrase in (*objects, *common, *unique)),
    )


def llama_cuts(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer that splits `texts` as Llama's does; its token ids are not Llama's."""
    words = sorted({word for text in texts for word in re.findall(_LLAMA_PIECE, text)})
    vocabulary = {word: number for number, word in enumerate(("<unk>", *words))}
    rust = RustTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex(_LLAMA_PIECE), behavior="removed", invert=True)
    rust.add_special_tokens(
        [
            prompts.IMAGE_START, prompts.IMAGE_END, prompts.IMAGE_TOKEN, prompts.SEG,
            prompts.PHRASE_START, prompts.PHRASE_END, prompts.END,
        ]
    )  # fmt: skip
    return Tokenizer(rust)


def counted_preset(name: str) -> tuple[CalicoConfig, Tokenizer]:
    """Configuration of a preset, with a tokenizer that counts its prompts and answers.

    Raises:
        InvalidConfigError: no such preset.
    """
    if name == "tiny":
        tokenizer = small_tokenizer()
        return presets.tiny(tokenizer.size), tokenizer
    if name != "7b":
        raise InvalidConfigError(f"preset: expected tiny or 7b, got {name!r}")
    config = presets.full()
    texts = [
        prompts.conversation(wordings[0], count, config.system_prompt)
        for wordings in prompts.QUESTIONS.values()
        for count in (1, 2, len(_UNIQUE_PARTS))
    ]
    return config, llama_cuts([*texts, *prompts.known_words(), *_COMMON_PARTS, *_UNIQUE_PARTS])
