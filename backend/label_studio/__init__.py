"""The wire door: everything that knows Label Studio's JSON, XML, brush RLE and HTTP API.

    label_config  parse_label_config(xml) -> LabelSchema                              cached by text
    task          parse_predict_request(body) -> PredictRequest
                  parse_setup_request(body) -> SetupRequest
                  parse_task(value, schema, place=...) -> Task        one task of the API
    event         parse_events(body) -> tuple[Event, ...]      read_annotation(event) -> Annotation
    annotation    parse_regions(result, schema) -> tuple[Region, ...]
    result        render_prediction(prediction, schema, task) -> RenderedPrediction
                  predict_answer(rendered, version=...) -> bytes
    brush         encode_mask(mask) -> list[int]      decode_mask(rle, size_hw=...) -> mask
    media         MediaFetcher(MediaLimits, ...).fetch_group(task) -> ImageGroup
    client        LabelStudioClient(url, token)

Past this folder there are only the dataclasses of backend.types.
"""
