"""What a project of image groups holds beside its labeling config.

The labeling instructions for annotators, and the columns of the Data Manager.
"""

from __future__ import annotations

from backend.label_studio.client import JsonObject, LabelStudioClient, LabelStudioProject

VIEW_TITLE = "Groups"

_SHOWN = (
    "tasks:id",
    "tasks:completed_at",
    "tasks:total_annotations",
    "tasks:cancelled_annotations",
    "tasks:total_predictions",
    "tasks:predictions_score",
    "tasks:draft_exists",
    "tasks:annotators",
)
_HIDDEN = (
    "tasks:inner_id",
    "tasks:annotations_results",
    "tasks:annotations_ids",
    "tasks:predictions_model_versions",
    "tasks:predictions_results",
    "tasks:file_upload",
    "tasks:storage_filename",
    "tasks:created_at",
    "tasks:updated_at",
    "tasks:updated_by",
    "tasks:avg_lead_time",
)
_IMAGES = "tasks:data.images"
PICTURE_COLUMNS: JsonObject = {
    "columnsDisplayType": {_IMAGES: "Image"},
    "columnsWidth": {_IMAGES: 160, "tasks:predictions_score": 150},
}
"""Has a tab of the Data Manager show the first image of each group."""


def create_group_project(
    client: LabelStudioClient, title: str, label_config: str, *, is_open: bool
) -> LabelStudioProject:
    """Creates a project with its labeling instructions.

    Args:
        client: Label Studio.
        title: shown in the list of projects.
        label_config: from backend.label_studio.group_config.
        is_open: whether annotators write the names of parts.
    """
    return client.create_project(
        title,
        label_config,
        expert_instruction=instructions(is_open=is_open),
        show_instruction=True,
        # A task shows its newest prediction, and asks for one if it has none.
        show_collab_predictions=True,
    )


def add_group_view(client: LabelStudioClient, project_id: int) -> None:
    """Gives the Data Manager a tab with pictures, scores and status; without one if it is there.

    Label Studio shows the first image of each group: its cells hold one picture.
    """
    views = client.get("/api/dm/views/", params={"project": project_id})
    if isinstance(views, list) and any(_title(view) == VIEW_TITLE for view in views):
        return
    client.add_view(project_id, group_view())


def group_view() -> JsonObject:
    """Returns the tab as Label Studio stores it."""
    return {
        "title": VIEW_TITLE,
        "type": "list",
        "target": "tasks",
        "hiddenColumns": {
            "explore": list(_HIDDEN),
            "labeling": [*_HIDDEN, *(name for name in _SHOWN if name not in _WHILE_LABELING)],
        },
        **PICTURE_COLUMNS,
    }


_WHILE_LABELING = ("tasks:id", "tasks:total_annotations", "tasks:predictions_score")


def instructions(*, is_open: bool) -> str:
    """Returns the labeling instructions as HTML that Label Studio keeps as it is.

    Label Studio shows lists without numbers and paragraphs without a distance, so both are written.

    Args:
        is_open: whether annotators write the names of parts, or choose them from the labels.
    """
    steps = (*_FIRST_STEPS, _KINDS_STEP if is_open else _LABELS_STEP, *_SMART_STEPS)
    last = _NAME_STEP if is_open else _LABEL_STEP
    numbered = enumerate((*steps, last, _SUBMIT_STEP), start=1)
    return "\n".join(
        (
            "<h3>A task is a group of images. Outline and name the parts that they show.</h3>",
            *(f"<p>{number}. {step}</p>" for number, step in numbered),
            "<br><h3>Corrections with the point tool</h3>",
            *(f"<p>• {correction}</p>" for correction in _CORRECTIONS),
            "<br><h3>The prompt box</h3>",
            f"<p>{_PROMPT_BOX}</p>",
        )
    )


_FIRST_STEPS = (
    "Masks that the model proposes are there when you open the task; on photographs it proposes "
    "nothing before the first corrected groups. Correct them: select a region and choose another "
    "label, redraw it, or delete it.",
    "To add a part, switch on <b>Auto-Annotation</b> below the images.",
)
_KEY = (
    "Its <b>key</b> stands beside it; the key chooses it on all images. A click with the mouse "
    "chooses it on the image whose number stands before the labels: the one that you pointed at "
    "last, or that of the selected region."
)
_LABELS_STEP = f"Choose a label. {_KEY}"
_KINDS_STEP = (
    "Choose what it is: <b>common_object</b> (a thing that several images show), "
    "<b>common_part</b> (a part that several images show) or <b>unique_part</b> (a part that one "
    f"image alone shows). {_KEY}"
)
_SMART_STEPS = (
    "Choose the smart tool at the image: a <b>point</b> or a <b>box</b>.",
    "<b>Click</b> on the part, or draw a box around it. The mask is proposed, and the same part "
    "on the other images of the group.",
    "The tick below the images takes what is proposed, the cross drops it.",
)
_LABEL_STEP = "Give every region a label. Nothing is learned from a region without one."
_NAME_STEP = (
    "Write the name of each part in the list of regions on the right. Nothing is learned from a "
    "region without a name."
)
_SUBMIT_STEP = "<b>Submit</b> when every part that you were asked for is there."
_CORRECTIONS = (
    "<b>Ctrl + click</b> (Cmd on a Mac) clicks on what is already drawn. A plain click there "
    "selects the region instead.",
    "<b>Alt + click</b> takes away what is under the pointer.",
    "A click beside a region that misses a piece adds the piece, if the label of the region is "
    "chosen.",
    "A <b>box</b> says most: draw one where a click is not enough.",
)
_PROMPT_BOX = (
    "Write what you look for and press Enter: <code>segment the handles</code>, "
    "<code>handle, lid</code> or <code>what is different?</code> It asks about all images of the "
    "group. The answer stands below it."
)


def _title(view: object) -> object:
    data = view.get("data") if isinstance(view, dict) else None
    return data.get("title") if isinstance(data, dict) else None
