"""The wire door: everything that knows Label Studio's JSON, XML, brush RLE and HTTP API.

    label_config  parse_label_config(xml) -> LabelSchema      the same text gives the same object
    task          parse_predict_request(body), parse_setup_request(body), parse_task(value, schema)
    event         parse_events(body) -> tuple[Event, ...]      read_annotation(event) -> Annotation
    annotation    parse_drawing(result, schema) -> Drawing     parse_prediction(value, schema)
    outline       polygon_ring, box_ring, ... -> corners       fill(ring, size_hw) -> mask
    result        render_prediction(prediction, schema, sizes_hw=...) -> RenderedPrediction
                  predict_answer(items) -> body; empty_item, not_yet_item, predict_item
    brush         encode_mask(mask) -> list[int]      decode_mask(rle, size_hw=...) -> mask
    media         MediaFetcher(label_studio_url=..., ...).fetch_group(task) -> ImageGroup
    names         StudioNames(listed, file=...)       other addresses of one Label Studio
    client        LabelStudioClient(url, token)       its .authorization serves the fetcher

Past this folder there are only the dataclasses of backend.types.
"""
