"""`calico simulate` and `calico bench training` at a real server with its trainer."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from backend.cli import command_tree
from calico_model.loading.checkpoints import save_model
from calico_model.training.pretraining.lexicon import small_tokenizer
from tests.conftest import build_micro


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "calico-micro"
    tokenizer = small_tokenizer()
    save_model(build_micro(tokenizer.size), tokenizer, folder, dtype=torch.float32)
    return folder


def last_line(*words):
    arguments = [str(word) for word in words]
    result = CliRunner().invoke(command_tree(arguments), arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_an_annotator_is_simulated_at_a_server_of_its_own(weights, tmp_path):
    small = ["--next", 1, "--base-groups", 1, "--replay", 4, "--seconds", 1]
    said = last_line(
        "simulate", "--weights", weights, "--corrections", "0,1", *small, "--out", tmp_path / "out"
    )
    before, after = said["curve"]
    assert (before["corrections"], after["corrections"]) == (0, 1)
    assert (before["update_s"], after["update_s"] > 0) == (0, True)
    assert before["version"].startswith("calico-micro")
    assert set(said["forgetting"]) == {"mIoU", "Recall"}
    assert json.loads((tmp_path / "out" / "simulation.json").read_text()) == said


@pytest.mark.slow
def test_answers_are_timed_while_an_update_trains(weights):
    few = ["--seconds", 1, "--pause", 0.05, "--update-seconds", 2, "--posters", 2, "--posts", 2]
    said = last_line("bench", "training", "--weights", weights, "--trainer-nice", 0, *few)
    assert said["wrong"] == said["webhook_not_201"] == 0
    assert min(said["predictions"]) > 0
    assert said["updates_s"]
