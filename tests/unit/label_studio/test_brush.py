"""The brush codec: byte for byte the SDK's, round trips, and hostile streams."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backend.errors import InvalidRleError
from backend.label_studio.brush import (
    ALPHA_THRESHOLD,
    MAX_PIXELS,
    decode_mask,
    decode_runs,
    encode_mask,
    encode_outlined,
)
from tests.unit.label_studio.golden_files import GOLDEN, payload

VECTORS = json.loads((GOLDEN / "brush" / "vectors.json").read_text())
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40))


def mask_of(vector):
    height, width = vector["size_hw"]
    packed = np.frombuffer(base64.b64decode(vector["mask"]), dtype=np.uint8)
    return np.unpackbits(packed, count=height * width).astype(bool).reshape(height, width)


@given(MASKS)
def test_an_outlined_mask_is_the_whole_mask(mask):
    rle = encode_outlined(mask)
    assert np.array_equal(decode_mask(rle, size_hw=mask.shape), mask)
    runs = decode_runs(encode_mask(mask), size_hw=mask.shape)
    assert np.array_equal(decode_runs(rle, size_hw=mask.shape), runs)


def test_only_the_border_of_an_outlined_mask_is_strong():
    mask = np.zeros((100, 200), np.bool_)
    mask[20:80, 30:150] = True
    alpha = decode_rle(encode_outlined(mask)).reshape(100, 200, 4)[..., 3]
    assert set(np.unique(alpha)) == {0, ALPHA_THRESHOLD, 255}
    assert np.array_equal(alpha >= ALPHA_THRESHOLD, mask)
    assert alpha[50, 90] == ALPHA_THRESHOLD
    assert (alpha[20:22, 30:150] == 255).all()
    assert (alpha == 255).sum() < mask.sum() / 5


def decode_rle(rle):
    """Every value of a stream of runs, one after the other."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    count, at, values = int(bits[:32], 2), 53, []
    sizes = [int(bits[k : k + 4], 2) + 1 for k in (37, 41, 45, 49)]
    while len(values) < count:
        assert bits[at] == "1", "a run"
        size = sizes[int(bits[at + 1 : at + 3], 2)]
        length = int(bits[at + 3 : at + 3 + size], 2) + 1
        values += [int(bits[at + 3 + size : at + 11 + size], 2)] * length
        at += 11 + size
    return np.array(values, np.uint8)


@pytest.mark.parametrize("vector", VECTORS["encoded"], ids=lambda vector: vector["name"])
def test_bytes_are_those_of_the_sdk(vector):
    assert bytes(encode_mask(mask_of(vector))) == base64.b64decode(vector["rle"])


@pytest.mark.parametrize(
    "vector", VECTORS["encoded"] + VECTORS["coloured"], ids=lambda vector: vector["name"]
)
def test_decodes_what_the_sdk_wrote(vector):
    decoded = decode_mask(base64.b64decode(vector["rle"]), size_hw=tuple(vector["size_hw"]))
    assert np.array_equal(decoded, mask_of(vector))


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_round_trip_of_any_mask(mask):
    assert np.array_equal(decode_mask(encode_mask(mask), size_hw=mask.shape), mask)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 70_000), st.booleans())
def test_round_trip_of_any_run_length(height, width, run, first):
    mask = (np.arange(height * width) // run % 2 == int(first)).reshape(height, width)
    assert np.array_equal(decode_mask(encode_mask(mask), size_hw=mask.shape), mask)


@settings(max_examples=200, deadline=None)
@example(b"v\x00\x14\x00\x00\x00\x00\x00\x00")
@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(data):
    header = encode_mask(np.zeros((5, 6), dtype=bool))[:7]
    try:
        mask = decode_mask(bytes(header) + data, size_hw=(5, 6))
    except InvalidRleError:
        return
    assert mask.shape == (5, 6)


def test_sliced_mask_is_encoded_like_its_copy():
    mask = np.random.default_rng(0).random((40, 60)) < 0.3
    assert encode_mask(mask[::2, 3::5]) == encode_mask(mask[::2, 3::5].copy())


def test_human_stroke_of_the_editor_decodes():
    region = payload("human_brush_region")
    size_hw = (region["original_height"], region["original_width"])
    mask = decode_mask(region["value"]["rle"], size_hw=size_hw)
    assert mask.shape == (480, 640)
    assert mask.sum() == 7925


@pytest.mark.parametrize(("alpha", "is_inside"), [(127, False), (128, True)])
def test_half_covered_pixel_is_inside(alpha, is_inside):
    rle = encode_mask(np.ones((1, 1), dtype=bool))
    bits = np.unpackbits(np.array(rle, dtype=np.uint8))
    bits[53 + 6 : 53 + 14] = np.unpackbits(np.array([alpha], dtype=np.uint8))
    assert decode_mask(np.packbits(bits).tolist(), size_hw=(1, 1))[0, 0] == is_inside


@pytest.mark.parametrize(
    ("rle", "size_hw", "message"),
    [
        ([], (4, 4), "at least 7 bytes"),
        ([0] * 20, (4, 4), "expected 64 values"),
        ([256] * 20, (4, 4), "integers 0 to 255"),
        ([-1] * 20, (4, 4), "integers 0 to 255"),
        ([0.5] * 20, (4, 4), "integers 0 to 255"),
        (["1"] * 20, (4, 4), "integers 0 to 255"),
        (encode_mask(np.eye(4, dtype=bool))[:-3], (4, 4), "truncated"),
        (encode_mask(np.eye(4, dtype=bool)), (4, 5), "expected 80 values"),
        ([0], (40_000, 40_000), str(MAX_PIXELS)),
        ([0], (0, 4), "1 to"),
        ([0], (-1, -4), "1 to"),
    ],
)
def test_bad_stream_is_refused_with_the_reason(rle, size_hw, message):
    with pytest.raises(InvalidRleError, match=message):
        decode_mask(rle, size_hw=size_hw)


def test_claimed_size_is_checked_before_anything_is_built():
    # 2**32 - 1 values from 20 bytes: nothing of that size may be allocated.
    with pytest.raises(InvalidRleError, match="got 4294967295"):
        decode_mask([255] * 20, size_hw=(4, 4))


def test_more_bytes_than_any_encoder_writes_are_refused_before_they_are_read(monkeypatch):
    rle = encode_mask(np.eye(4, dtype=bool))
    assert np.array_equal(decode_mask([*rle, *[0] * 40], size_hw=(4, 4)), np.eye(4, dtype=bool))
    monkeypatch.setattr(np, "unpackbits", None)
    with pytest.raises(InvalidRleError, match="expected at most 286 bytes, got 100000"):
        decode_mask(bytes(rle).ljust(100_000, b"\0"), size_hw=(4, 4))


def test_one_token_per_value_is_not_too_long():
    # 4 x 4 pixels as 64 runs of one value with the longest length field.
    token = "111" + "0" * 16 + "1" * 8
    bits = f"{64:032b}00111" + f"{2:04b}{3:04b}{7:04b}{15:04b}" + token * 64
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert decode_mask(data, size_hw=(4, 4)).all()


def test_other_word_size_is_refused():
    rle = encode_mask(np.zeros((2, 2), dtype=bool))
    rle[4] = rle[4] & 0b00000111 | 15 << 3
    with pytest.raises(InvalidRleError, match="words of 8 bits, got 16"):
        decode_mask(rle, size_hw=(2, 2))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_mask_without_pixels_is_refused(shape):
    with pytest.raises(InvalidRleError, match="pixels"):
        encode_mask(np.zeros(shape, dtype=bool))
