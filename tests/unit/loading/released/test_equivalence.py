"""What is loaded computes what its release computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import SamModel

from calico_model.loading.released.assembly import load_released
from calico_model.modeling.mask_decoder import AMBIGUOUS, SINGLE, MaskFeatures, PointKind
from calico_model.modeling.model import Calico
from tests.unit.loading.released import writers
from tests.unit.loading.released.comparing import copy_of, same
from tests.unit.loading.released.conftest import Merged, Parts, write_merged
from tests.unit.loading.released.writers import base_config, part_of


@pytest.fixture(scope="module")
def model(parts: Parts) -> Calico:
    return load_released(parts.folder, base=base_config()).model


@pytest.fixture(scope="module")
def hf(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Calico, SamModel]:
    """A Calico whose masks come from SAM of transformers, and that SAM."""
    torch.manual_seed(13)
    folder = copy_of(parts.folder, tmp_path_factory.mktemp("hf"))
    for path in (folder / "GLaMM-GranD-Pretrained").iterdir():
        path.unlink()
    base = base_config()
    writers.llama(base.language.vocab_size, base).save_pretrained(folder / "vicuna")
    writers.write_llama_tokenizer(folder / "vicuna", tags=True)
    reference = writers.sam_hf(base)
    reference.save_pretrained(folder / "sam-vit-huge")
    return load_released(folder, base=base).model, reference


@torch.no_grad()
def test_the_query_path_equals_instructblips_qformer_bit_for_bit(
    model: Calico, parts: Parts
) -> None:
    queries, tokens = torch.randn(3, 4, 32), torch.randn(3, 17, 48)
    theirs = part_of(parts.blip, "qformer")(
        input_ids=None, query_embeds=queries, encoder_hidden_states=tokens
    )
    assert torch.equal(model.run_qformer(queries, tokens), theirs.last_hidden_state)


@torch.no_grad()
def test_eva_of_instructblip_and_of_lavis(
    model: Calico, parts: Parts, merged: Merged, tmp_path: Path
) -> None:
    pixels = torch.randn(2, 3, 28, 28)
    theirs = part_of(parts.blip, "vision_model")(pixel_values=pixels).last_hidden_state
    assert torch.equal(model.eva(pixel_values=pixels).last_hidden_state, theirs)

    folder = write_merged(merged.state, tmp_path / "CALICO")
    eva = load_released(folder, base=base_config()).model.eva
    torch.testing.assert_close(
        eva(pixel_values=pixels).last_hidden_state, merged.eva(pixels), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_the_language_model_says_the_same(model: Calico, parts: Parts) -> None:
    ids = torch.randint(0, base_config().language.vocab_size, (2, 9))
    ours = model.language(input_ids=ids).logits[..., :-1]  # without the row of <image>
    torch.testing.assert_close(ours, parts.language(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sams_image_encoder_with_windows_and_relative_positions(
    hf: tuple[Calico, SamModel],
) -> None:
    model, reference = hf
    tables = [n for n, p in model.sam_encoder.named_parameters() if "rel_pos" in n and p.any()]
    assert len(tables) == 4
    pixels = torch.randn(2, 3, 64, 64)
    theirs = reference.vision_encoder(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(model.sam_encoder(pixels), theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("multimask", [False, True])
def test_sams_mask_decoder(hf: tuple[Calico, SamModel], multimask: bool) -> None:
    model, reference = hf
    embedding, sparse = torch.randn(1, 32, 8, 8), torch.randn(3, 1, 32)
    _, dense = reference.prompt_encoder(None, None, None, None)
    theirs = reference.mask_decoder(
        image_embeddings=embedding,
        image_positional_embeddings=reference.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=sparse[None],
        dense_prompt_embeddings=dense.expand(1, -1, 8, 8),
        multimask_output=multimask,
    )
    ours = model.mask_decoder(
        MaskFeatures(embedding),
        torch.zeros(3, dtype=torch.int64),
        sparse,
        outputs=AMBIGUOUS if multimask else SINGLE,
    )
    torch.testing.assert_close(ours[0], theirs[0][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[1], theirs[1][0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sams_click_and_mask_prompts(hf: tuple[Calico, SamModel]) -> None:
    model, reference = hf
    points = torch.tensor([[[10.0, 20.0], [33.0, 5.0], [60.0, 61.0]]])
    labels = torch.tensor([[1, 0, 1]])
    drawn = torch.randn(1, 1, 32, 32)
    # SAM's pixel p is at p + 0.5, ours spans [p, p + 1); without a box SAM adds an empty point.
    nothing = torch.zeros(1, 1, 2)
    ours = model.mask_decoder.embed(
        torch.cat((points + 0.5, nothing), 1),
        torch.cat((labels, labels.new_full((1, 1), PointKind.NONE)), 1),
        drawn[:, 0],
    )
    theirs = reference.prompt_encoder(points[None], labels[None], None, drawn)
    torch.testing.assert_close(ours[0], theirs[0][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    boxes = torch.tensor([[5.0, 6.0, 50.0, 40.0]])
    ours = model.mask_decoder.embed(
        boxes.view(1, 2, 2) + 0.5,
        torch.tensor([[PointKind.FIRST_CORNER, PointKind.SECOND_CORNER]]),
    )
    theirs = reference.prompt_encoder(None, None, boxes[None], None)
    torch.testing.assert_close(ours[0], theirs[0][0], rtol=1e-4, atol=1e-5)


def test_every_tensor_of_sam_is_used_once(hf: tuple[Calico, SamModel]) -> None:
    """No renaming lost or doubled a tensor: both sides hold the same values."""

    def values(*modules: torch.nn.Module) -> list[tuple[float, ...]]:
        tensors = [t for module in modules for t in module.state_dict().values()]
        return sorted(tuple(t.flatten()[:4].tolist()) for t in tensors)

    model, reference = hf
    own = values(model.sam_encoder, model.mask_decoder)
    theirs = values(reference.vision_encoder, reference.prompt_encoder, reference.mask_decoder)
    assert own == theirs


@torch.no_grad()
def test_saved_again_in_our_format_it_is_the_same(hf: tuple[Calico, SamModel]) -> None:
    model, _ = hf
    again = Calico(model.config)
    again.load_state_dict(model.state_dict())
    same(again, model.state_dict())
