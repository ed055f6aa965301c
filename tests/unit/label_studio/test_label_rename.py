"""Renaming a label in a labeling config: the old name is another word then, the rest stays."""

from __future__ import annotations

import difflib

import pytest

from backend.errors import SettingsError
from backend.label_schema import LabelValue
from backend.label_studio.group_config import labels_config, open_config
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.label_rename import plan_renaming
from backend.label_studio.label_set import vocabulary_in
from backend.label_studio.relabelling import renamed_results

LABELS = [LabelValue("wheel", ("rim",)), LabelValue("door"), LabelValue("seat", ("cushion",))]
CONFIG = labels_config(LABELS)
TWO_IMAGES = """<View>
  <!-- <Label value="wheel"/> in a comment -->
  <Image name="a" value="$a"/><Image name="b" value="$b"/>
  <BrushLabels name="la" toName="a"><Label value="wheel"/><Label value='door > 2' hotkey="2"/>
  </BrushLabels>
  <BrushLabels name="lb" toName="b">
    <Label value="wheel"></Label>
    <Label value="door &gt; 2"/>
  </BrushLabels>
  <KeyPointLabels name="point" toName="a" smart="true"><Label value="wheel"/></KeyPointLabels>
  <Choices name="about" toName="a"><Choice value="wheel"/><Choice value="other"/></Choices>
  <View visibleWhen="region-selected" whenTagName="la" whenLabelValue="wheel,door > 2"/>
  <View visibleWhen="choice-selected" whenTagName="about" whenChoiceValue="wheel"/>
</View>"""


def vocabulary(config):
    return vocabulary_in(parse_label_config(config), ())


def changed_lines(before, after):
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line[2:].strip() for line in lines if line.startswith("+ ")]


def test_the_label_keeps_its_place_and_the_old_name_means_it():
    renaming = plan_renaming(CONFIG, "wheel", "tyre", merges=False)
    found = vocabulary(renaming.config)
    assert found.labels == ("tyre", "door", "seat")
    assert {found.find(text) for text in ("wheel", "rim", "tyre", "Wheels")} == {"tyre"}
    (line,) = changed_lines(CONFIG, renaming.config)
    assert line.startswith('<Label value="tyre" background=')
    assert line.endswith('predicted_values="wheel, rim"/>')
    assert {"part_0", "part_7", "mask_0"} <= renaming.tags
    assert (renaming.is_known, renaming.merges, renaming.is_choice) == (True, False, False)


def test_every_tool_with_the_label_is_edited_and_other_tags_are_not():
    renaming = plan_renaming(TWO_IMAGES, "wheel", "tyre & rim", merges=False)
    assert renaming.config.count('value="tyre &amp; rim"') == 3
    assert '<!-- <Label value="wheel"/> in a comment -->' in renaming.config
    assert '<Choice value="wheel"/>' in renaming.config
    assert 'whenLabelValue="tyre &amp; rim,door &gt; 2"' in renaming.config
    assert 'whenChoiceValue="wheel"' in renaming.config
    assert vocabulary(renaming.config).labels == ("tyre & rim", "door > 2")
    assert renaming.tags == {"la", "lb", "point"}


def test_the_same_renaming_again_changes_nothing():
    first = plan_renaming(CONFIG, "wheel", "tyre", merges=False)
    again = plan_renaming(first.config, "wheel", "tyre", merges=False)
    assert (again.config, again.is_known) == (first.config, True)


def test_there_and_back_is_the_same_set_of_labels():
    there = plan_renaming(CONFIG, "wheel", "tyre", merges=False).config
    back = vocabulary(plan_renaming(there, "tyre", "wheel", merges=False).config)
    assert back.labels == vocabulary(CONFIG).labels
    assert dict(back.aliases) == {"rim": "wheel", "tyre": "wheel", "cushion": "seat"}


def test_a_label_that_was_renamed_by_hand_gets_its_old_name_as_another_word():
    by_hand = CONFIG.replace('value="wheel"', 'value="tyre"')
    renaming = plan_renaming(by_hand, "wheel", "tyre", merges=False)
    assert not renaming.is_known  # only annotations can tell that this was a label
    assert vocabulary(renaming.config).find("wheel") == "tyre"


def test_merging_takes_one_label_away_with_its_words():
    renaming = plan_renaming(CONFIG, "wheel", "seat", merges=True)
    found = vocabulary(renaming.config)
    assert (found.labels, renaming.merges) == (("door", "seat"), True)
    assert {found.find(text) for text in ("wheel", "rim", "cushion")} == {"seat"}
    two = plan_renaming(TWO_IMAGES, "wheel", "door > 2", merges=True).config
    assert vocabulary(two).labels == ("door > 2",)
    # The tool without the other label keeps a label: it would be empty otherwise.
    assert two.count('<Label value="door &gt; 2" predicted_values="wheel"/>') == 2


def test_the_stored_text_of_a_label_with_an_alias_is_renamed():
    config = TWO_IMAGES.replace('<Label value="wheel"', '<Label value="Wheel (w)" alias="wheel"')
    found = plan_renaming(config, "wheel", "tyre", merges=False).config
    assert found.count('value="Wheel (w)" predicted_values="wheel" alias="tyre"') == 3
    assert vocabulary(found).labels == ("tyre", "door > 2")


@pytest.mark.parametrize(
    ("old", "new", "merges", "words"),
    [
        ("wheel", "wheel ", False, "NEW: expected another name than OLD"),
        ("wheels", "tyre", False, "OLD: the project has no label 'wheels'; it has wheel, door"),
        ("wheel", "door", False, "NEW: 'door' is a label of its own; with --merge"),
        ("wheel", "tyre", True, "--merge: the project has no label 'tyre'"),
        ("wheel", "Doors", False, "NEW: 'Doors' is another word for the label 'door'"),
        ("wheel", "cushion", False, "NEW: 'cushion' is another word for the label 'seat'"),
        ("wheel", "a, b", False, "NEW: expected names without a comma"),
        ("wheel", "common part", False, "NEW: .*which is the role of a region"),
        ("wheel", "", False, "NEW: expected names of 1 to 80"),
        ("wheel, rim", "tyre", False, "OLD: 'wheel, rim' has a comma"),
    ],
)
def test_what_cannot_be_meant_is_refused(old, new, merges, words):
    with pytest.raises(SettingsError, match=words):
        plan_renaming(CONFIG, old, new, merges=merges)


def test_labels_that_no_config_holds_are_refused():
    with pytest.raises(SettingsError, match=r'free text into <TextArea name="part_\{\{idx\}\}">'):
        plan_renaming(open_config(), "wheel", "tyre", merges=False)
    of_tasks = TWO_IMAGES.replace('name="la"', 'name="la" value="$parts"').replace(
        'name="lb"', 'name="lb" value="$parts"'
    )
    with pytest.raises(SettingsError, match=r"come with its tasks \(\$parts\)"):
        plan_renaming(of_tasks, "hub", "tyre", merges=False)


def result(from_name, key, labels, **more):
    return {"from_name": from_name, "type": key, "value": {key: labels, "rle": [1, 2]}, **more}


def test_results_get_the_new_name_and_keep_everything_else():
    renaming = plan_renaming(CONFIG, "wheel", "tyre", merges=False)
    results = [
        result("part_1", "labels", ["wheel"], id="a", score=0.1),
        result("part_0", "labels", ["door", "wheel", "tyre"], id="b"),
        result("kind_1", "choices", ["wheel"], id="a"),
        result("phrase", "labels", ["wheel"], id="c"),
        {"from_id": "a", "to_id": "b", "type": "relation"},
        "unknown",
    ]
    found, count = renamed_results(results, renaming)
    assert count == 2
    assert found[0] == result("part_1", "labels", ["tyre"], id="a", score=0.1)
    assert found[1]["value"]["labels"] == ["door", "tyre"]
    assert found[2:] == results[2:]
    assert results[0]["value"]["labels"] == ["wheel"]  # what was read is as it was
    assert renamed_results(found, renaming) == (found, 0)
