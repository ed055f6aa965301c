"""Every released layout gives every tensor its place and value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from calico_model.config import LoraConfig
from calico_model.presets import full
from tests.unit.loading.released import writers
from tests.unit.loading.released.comparing import (
    check_masks,
    copy_of,
    inner,
    language_state,
    load,
    query_path,
    same,
    with_image_row,
)
from tests.unit.loading.released.conftest import Merged, Parts, write_merged
from tests.unit.loading.released.writers import State, base_config, part_of


def test_public_parts_come_together_tensor_by_tensor(parts: Parts) -> None:
    released = load(parts.folder)
    model = released.model
    rows = model.config.language.vocab_size
    expected = with_image_row(parts.language.state_dict(), rows)
    own = language_state(model)
    assert set(own) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
        kept = len(parts.language.state_dict()[name])
        assert torch.equal(own[name][:kept], parts.language.state_dict()[name]), name
    same(model.eva, part_of(parts.blip, "vision_model").state_dict())
    same(model.qformer, query_path(part_of(parts.blip, "qformer").state_dict()))
    same(model.image_projection, part_of(parts.blip, "language_projection").state_dict())
    assert torch.equal(model.query_tokens, inner(parts.blip).query_tokens[0])
    same(model.dino, parts.dino.state_dict())
    check_masks(model, parts)
    same(model.segmentation_projection, parts.projection.state_dict())


def test_the_report_says_what_came_from_where(parts: Parts) -> None:
    report = load(parts.folder).report
    assert report.origins["language"].endswith("GLaMM-GranD-Pretrained (GLaMM)")
    assert report.origins["mask_decoder"] == report.origins["language"]
    assert report.origins["eva"].endswith("instructblip-vicuna-7b (InstructBLIP)")
    assert set(report.untrained) == {"cem", "cams", "lora"}
    assert report.new_tokens == ("<image>",)
    assert report.unexpected == report.unused == report.absent == ()
    told = "\n".join(report.lines())
    assert "cem: not released; starts untrained" in told
    assert "<image>" in told


def test_parts_nobody_released_change_nothing_yet(parts: Parts) -> None:
    model = load(parts.folder).model
    assert model.cem is not None
    assert not any(p.any() for p in model.cem.attention.out_proj.parameters())
    assert not any(p.any() for p in model.cams.parameters())
    lora = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    assert lora
    assert all(p.any() == (".lora_A." in n) for n, p in lora.items())
    again = load(parts.folder).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_merged_release_comes_in_tensor_by_tensor(merged: Merged, tmp_path: Path) -> None:
    released = load(write_merged(merged.state, tmp_path / "CALICO"))
    model, state, parts = released.model, merged.state, merged.parts
    for index, block in enumerate(merged.eva.visual_encoder.blocks):
        layer = model.eva.encoder.layers[index]
        zero = torch.zeros_like(block.attn.q_bias)
        packed = torch.cat((block.attn.q_bias, zero, block.attn.v_bias))
        assert torch.equal(layer.self_attn.qkv.bias, packed)
        assert torch.equal(layer.self_attn.qkv.weight, block.attn.qkv.weight)
    same(model.qformer, query_path(part_of(parts.blip, "qformer").state_dict()))
    same(model.dino, parts.dino.state_dict())
    check_masks(model, parts)
    assert torch.equal(model.query_tokens, state["model.query_tokens"][0])
    assert torch.equal(model.image_projection.weight, state["model.mm_projector.weight"])
    for k, cam in enumerate(model.cams):
        assert torch.equal(cam.adaptation.weight, state[f"model.adaptive_layers.{k}.weight"])
        assert torch.equal(cam.reintegration.bias, state[f"model.reintegration_layers.{k}.bias"])
    assert model.cem is not None
    same(
        model.cem.attention,
        {
            k.removeprefix("model.extraction_layer."): v
            for k, v in state.items()
            if "extraction_layer" in k
        },
    )
    assert not model.config.cem_norms
    assert released.report.untrained == ("lora",)


def test_names_under_peft_carry_their_lora(merged: Merged, tmp_path: Path) -> None:
    state: State = {}
    lora: State = {}
    for name, tensor in merged.state.items():
        if name.endswith(("q_proj.weight", "o_proj.weight")) and "model.layers" in name:
            path = f"base_model.model.{name.removesuffix('.weight')}"
            state[f"{path}.base_layer.weight"] = tensor
            lora[f"{path}.lora_A.default.weight"] = torch.randn(6, 64)
            lora[f"{path}.lora_B.default.weight"] = torch.randn(64, 6)
        else:
            state[f"base_model.model.{name}"] = tensor
    released = load(write_merged(state | lora, tmp_path / "CALICO"))
    own = released.model.state_dict()
    assert released.model.config.lora == LoraConfig(6, 24, 0.0, ("o_proj", "q_proj"))
    for name, tensor in lora.items():
        ours = "language." + name.removeprefix("base_model.model.")
        assert torch.equal(own[ours], tensor), ours
    assert "lora" not in released.report.untrained


def test_an_adapter_file_beside_its_base_brings_lora_and_scale(
    parts: Parts, tmp_path: Path
) -> None:
    folder = copy_of(parts.folder, tmp_path)
    state: State = {}
    for k in range(4):
        path = f"base_model.model.model.layers.{k}.self_attn.q_proj"
        state[f"{path}.lora_A.weight"] = torch.randn(2, 64)
        state[f"{path}.lora_B.weight"] = torch.randn(64, 2)
    (folder / "adapter").mkdir()
    torch.save(state, folder / "adapter" / "adapter_model.bin")
    (folder / "adapter" / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 32}')
    model = load(folder).model
    assert (model.config.lora.rank, model.config.lora.alpha) == (2, 32)
    name = "model.layers.3.self_attn.q_proj.lora_B"
    own = model.state_dict()[f"language.{name}.default.weight"]
    assert torch.equal(own, state[f"base_model.model.{name}.weight"])


def test_shapes_win_over_the_configuration(merged: Merged, tmp_path: Path) -> None:
    """Another DINOv2 (gated, wider), another CEM form, another Q-Former width of text rows."""
    base = base_config()
    wide = replace(base, dino=replace(base.dino, width=36, layers=3, heads=3, registers=1))
    other = writers.dino(wide, gated=True)
    state = {
        k: v
        for k, v in merged.state.items()
        if "dino_model" not in k and "extraction_layer" not in k
    }
    state |= {f"model.dino_model.{k}": v for k, v in writers.dino_hub_state(other).items()}
    cem = {
        "projection": torch.nn.Linear(36, 48),
        "query_norm": torch.nn.LayerNorm(48),
        "semantic_norm": torch.nn.LayerNorm(36),
        "attention": torch.nn.MultiheadAttention(48, 4),
    }
    for path, module in cem.items():
        shaken = writers.shaken(module).state_dict()
        state |= {f"model.extraction_layer.{path}.{k}": v for k, v in shaken.items()}
    model = load(write_merged(state, tmp_path / "CALICO")).model
    assert model.config.dino == replace(
        base.dino, width=36, layers=3, heads=3, mlp=144, registers=1, gated=True
    )
    assert model.config.cem_norms
    assert model.config.cem_projection
    same(model.dino, other.state_dict())
    assert model.cem is not None
    for path, module in cem.items():
        same(model.cem.get_submodule(path), module.state_dict())


def test_sizes_come_from_the_weights_alone(merged: Merged, tmp_path: Path) -> None:
    """From the full preset on, with heads as wide as the small ones, nothing else is left."""
    small, big = base_config(), full()
    start = replace(
        big,
        eva=replace(big.eva, width=24, heads=2),
        dino=replace(big.dino, width=24, heads=2),
        qformer=replace(big.qformer, width=32, heads=2),
        mask=replace(big.mask, decoder_heads=4),
        language=replace(big.language, width=32, heads=2),
        cem_heads=2,
    )
    config = load(write_merged(merged.state, tmp_path / "CALICO"), start).model.config
    assert config.eva == small.eva
    assert config.qformer == small.qformer
    assert config.mask == small.mask
    assert config.dino == replace(small.dino, input_size=112)
    assert replace(config.language, vocab_size=0) == replace(
        small.language, vocab_size=0, max_positions=4096
    )
    assert (config.image_size, config.cams, config.cem_heads) == (64, 2, 4)


def test_cams_named_after_their_layers_are_counted(merged: Merged, tmp_path: Path) -> None:
    layers = base_config().cam_layers
    state = {}
    for name, tensor in merged.state.items():
        for k, layer in enumerate(layers):
            name = name.replace(f"ve_layers.{k}.", f"ve_layers.L{layer}.")
            name = name.replace(f"on_layers.{k}.", f"on_layers.L{layer}.")
        state[name.replace("_layers.L", "_layers.")] = tensor
    model = load(write_merged(state, tmp_path / "CALICO")).model
    for k, cam in enumerate(model.cams):
        expected = merged.state[f"model.adaptive_layers.{k}.weight"]
        assert torch.equal(cam.adaptation.weight, expected)


def test_vicuna_alone_gets_rows_for_the_tags(parts: Parts, tmp_path: Path) -> None:
    config = base_config()
    rows = config.language.vocab_size - len(writers.TAGS)
    vicuna = writers.llama(rows, config)
    folder = copy_of(parts.folder, tmp_path)
    for path in sorted((folder / "GLaMM-GranD-Pretrained").iterdir()):
        path.unlink()
    vicuna.save_pretrained(folder / "vicuna-7b-v1.5", max_shard_size="200KB")
    assert (folder / "vicuna-7b-v1.5" / "model.safetensors.index.json").is_file()
    writers.write_llama_tokenizer(folder / "vicuna-7b-v1.5", tags=False)
    torch.save(parts.masks.state_dict(), folder / "sam_vit_h_4b8939.pth")
    released = load(folder)
    assert released.report.new_tokens == (*writers.TAGS, "<image>")
    assert set(released.report.untrained) == {"segmentation_projection", "cem", "cams", "lora"}
    check_masks(released.model, parts)
    own = language_state(released.model)["lm_head.weight"]
    assert torch.equal(own[:rows], vicuna.lm_head.weight)
    assert len(own) == released.model.config.language.vocab_size == rows + 8
    expected = vicuna.lm_head.weight.mean(0).expand(8, -1)
    torch.testing.assert_close(own[rows:], expected, rtol=1e-5, atol=1e-7)


def test_a_lavis_file_stands_in_for_instructblip(merged: Merged, tmp_path: Path) -> None:
    folder = copy_of(merged.parts.folder, tmp_path)
    for path in sorted((folder / "instructblip-vicuna-7b").iterdir()):
        path.unlink()
    state = {
        k.removeprefix("model."): v
        for k, v in merged.state.items()
        if any(part in k for part in ("visual_encoder", "ln_vision", "Qformer", "query_tokens"))
    }
    state["llm_proj.weight"] = merged.state["model.mm_projector.weight"]
    state["llm_proj.bias"] = merged.state["model.mm_projector.bias"]
    torch.save({"model": state}, folder / "instruct_blip_vicuna7b_trimmed.pth")
    model = load(folder).model
    assert torch.equal(model.image_projection.weight, state["llm_proj.weight"])
    assert torch.equal(model.eva.post_layernorm.weight, merged.eva.ln_vision.weight)
    same(model.qformer, query_path(part_of(merged.parts.blip, "qformer").state_dict()))


def test_dino_from_its_own_repository_equals_the_one_of_transformers(
    parts: Parts, tmp_path: Path
) -> None:
    folder = copy_of(parts.folder, tmp_path)
    for path in sorted((folder / "dinov2-with-registers-base").iterdir()):
        path.unlink()
    torch.save(writers.dino_hub_state(parts.dino), folder / "dinov2_vitb14_reg4_pretrain.pth")
    same(load(folder).model.dino, parts.dino.state_dict())


def test_glamms_masks_win_over_sams_own(parts: Parts, tmp_path: Path) -> None:
    folder = copy_of(parts.folder, tmp_path)
    torch.save(writers.sam(base_config()).state_dict(), folder / "sam_vit_h_4b8939.pth")
    released = load(folder)
    check_masks(released.model, parts)
    assert [u for u in released.report.unused if u.endswith("calico-7b-parts")]
