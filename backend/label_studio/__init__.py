"""The wire door: everything that knows Label Studio's JSON, XML, brush RLE and HTTP API.

From the wire to values of `backend.types`:
    label_config         parse_label_config(xml) -> LabelSchema
    request              parse_predict_request(body), parse_setup_request(body)
    task                 parse_task(value, schema) -> Task
    interactive_context  read_prompts, read_question: clicks, boxes and typed texts
    canvas               read_canvas(drawings, schema): the regions that are drawn already
    event, event_key     parse_events(body) -> tuple[Event, ...]; their idempotency keys
    annotation           parse_drawing(result, schema) -> Drawing, parse_prediction(value, schema)
    drawing, shape, outline, brush    the results of one region; its mask

From values to the wire:
    result               render_prediction(prediction, schema, sizes_hw=...) -> RenderedPrediction
    response             bodies of the responses to /predict, /setup and /versions
    brush                encode_mask(mask) -> list[int]
    group_config         labels_config(labels), open_config() -> XML; with palette, group_layout.css
    group_project        create_group_project, add_group_view: instructions and columns of a project

Over HTTP:
    client, connection   LabelStudioClient(url, token): calls of Label Studio's API
    onboarding, history, untouched    further calls: connecting, missed events, tasks to predict
    media                MediaFetcher(...).fetch_group(task) -> ImageGroup; with download, address,
                         image_decoding
    names                StudioNames(listed, file=...): other addresses of one Label Studio

Outside this folder only the dataclasses of `backend.types` are known.
"""
