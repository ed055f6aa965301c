"""Brush masks <-> Label Studio's run-length bytes, vectorised.

The format is the thi.ng "rle-pack" bit stream over row-major RGBA values: 32 bits = number of
values, 5 bits = word size - 1, four times 4 bits = size of a length field - 1; then tokens. A token
is 1 bit (1 = run, 0 = literals), 2 bits (which length field), the length - 1, and one 8-bit value
for a run or `length` values for literals. Alpha decides what belongs to the mask.

JSON, tags and regions are read in other modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.errors import InvalidRleError
from backend.rle import changes_of
from calico_model.types import BoolMask

MAX_PIXELS = 40_000_000
ALPHA_THRESHOLD = 128  # human strokes are anti-aliased: half covered counts as inside
_BORDER_SHARE = 80  # the image's shorter side over the width of a border

_HEADER_BITS = 53
_WORD_BITS = 8
_CHANNELS = 4
_SIZES = (3, 4, 8, 16)  # bits of the four length fields that the encoder uses
_LONGEST_RUN = 1 << 16
_PADDING_BYTES = 64  # encoders end on a whole byte, word or buffer
# Below this many pixels per run, filling run by run costs more than one vectorised repeat.
_PIXELS_PER_RUN = 128

_Int = NDArray[np.int64]
_Bytes = NDArray[np.uint8]


def encode_mask(mask: BoolMask) -> list[int]:
    """Encodes a mask exactly as `label_studio_sdk.converter.brush.mask2rle` encodes 0 / 255.

    Args:
        mask: (H, W) bool in the original pixel frame, at most MAX_PIXELS pixels.

    Returns:
        Byte values 0..255.

    Raises:
        InvalidRleError: the mask has no or too many pixels.
    """
    _check_size(mask)
    flat = np.ascontiguousarray(mask, dtype=np.bool_).reshape(-1)
    return _encode(*_runs(flat), flat.size)


def encode_outlined(mask: BoolMask) -> list[int]:
    """Encodes a mask that the editor shows as a strong border around a faint area.

    Every pixel of the mask has an alpha of at least ALPHA_THRESHOLD, so whoever reads it gets the
    whole mask, and the editor keeps the alpha of what nobody draws over.

    Args:
        mask: as in `encode_mask`.

    Returns:
        Byte values 0..255.

    Raises:
        InvalidRleError: as `encode_mask`.
    """
    _check_size(mask)
    mask = np.ascontiguousarray(mask, dtype=np.bool_)
    width = max(2, round(min(mask.shape) / _BORDER_SHARE))
    alpha = np.where(_inside(mask, width), np.uint8(ALPHA_THRESHOLD), np.uint8(255))
    alpha[~mask] = 0
    flat = alpha.reshape(-1)
    edges = np.concatenate(([0], changes_of(flat), [flat.size]))
    lengths, values = np.diff(edges), flat[edges[:-1]].astype(np.uint64)
    return _encode(lengths, values, flat.size)


def _inside(mask: BoolMask, width: int) -> BoolMask:
    """The pixels of a mask whose four neighbours at a distance of `width` pixels are inside."""
    inside = np.zeros_like(mask)
    height, row = mask.shape
    if min(height, row) > 2 * width:
        middle = (slice(width, -width), slice(width, -width))
        inside[middle] = (
            mask[middle]
            & mask[: -2 * width, width:-width]
            & mask[2 * width :, width:-width]
            & mask[width:-width, : -2 * width]
            & mask[width:-width, 2 * width :]
        )
    return inside


def decode_mask(rle: Sequence[int] | bytes, *, size_hw: tuple[int, int]) -> BoolMask:
    """Decodes brush bytes written by the editor or by any encoder of the format.

    Args:
        rle: byte values 0..255.
        size_hw: (height, width) in pixels that the region states.

    Returns:
        (H, W) bool, True where alpha >= 128.

    Raises:
        InvalidRleError: not bytes, another size than stated, too large, or truncated.
    """
    height, width = size_hw
    starts, is_inside = _read_mask(rle, height, width)
    return _paint(starts, is_inside, height * width).reshape(height, width)


def decode_runs(rle: Sequence[int] | bytes, *, size_hw: tuple[int, int]) -> _Int:
    """Finds the runs of a mask without painting it.

    Args:
        rle: byte values 0..255.
        size_hw: (height, width) in pixels that the region states.

    Returns:
        (R, 2) first and past-last position of each run of the row-major mask, rising.

    Raises:
        InvalidRleError: as `decode_mask`.
    """
    starts, is_inside = _read_mask(rle, *size_hw)
    edges = np.minimum(starts // _CHANNELS, size_hw[0] * size_hw[1])
    is_drawn = is_inside & (edges[1:] > edges[:-1])
    first, last = edges[:-1][is_drawn], edges[1:][is_drawn]
    if first.size == 0:
        return np.zeros((0, 2), np.int64)
    is_new = np.concatenate(([True], first[1:] > last[:-1]))  # encoders cut long runs
    is_end = np.concatenate((is_new[1:], [True]))
    return np.stack((first[is_new], last[is_end]), axis=1)


def _check_size(mask: BoolMask) -> None:
    if mask.ndim != 2 or not 0 < mask.size <= MAX_PIXELS:
        raise InvalidRleError(f"expected (H, W) of 1 to {MAX_PIXELS} pixels, got {mask.shape}")


def _encode(lengths: _Int, values: NDArray[np.uint64], pixels: int) -> list[int]:
    """Lengths in pixels and values of runs -> bytes."""
    lengths, values, is_long = _split_long(lengths * _CHANNELS, values)
    tokens, token_bits = _tokens(lengths, values, is_long)
    rle: list[int] = _pack(pixels * _CHANNELS, tokens, token_bits).tolist()
    return rle


def _read_mask(rle: Sequence[int] | bytes, height: int, width: int) -> tuple[_Int, BoolMask]:
    """Starts (U + 1,) of the units of values, and whether each (U,) is inside."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InvalidRleError(
            f"expected 1 to {MAX_PIXELS} pixels, got a mask of {width} x {height}"
        )
    data = _to_bytes(rle)
    sizes = _read_header(data, height * width * _CHANNELS)
    _check_length(data, sizes, height * width * _CHANNELS)
    starts, values = _read_units(data, sizes, height * width * _CHANNELS)
    return starts, values >= ALPHA_THRESHOLD


def _runs(flat: BoolMask) -> tuple[_Int, NDArray[np.uint64]]:
    """Lengths in pixels and values 0 / 255 of the runs of a flat mask."""
    edges = np.concatenate(([0], changes_of(flat), [flat.size]))
    values = np.zeros(edges.size - 1, dtype=np.uint64)
    values[0 if flat[0] else 1 :: 2] = 255
    return np.diff(edges), values


def _split_long(
    lengths: _Int, values: NDArray[np.uint64]
) -> tuple[_Int, NDArray[np.uint64], BoolMask]:
    """Cuts runs over 65,536 into full pieces and a rest; the rest keeps the longest field."""
    is_long = lengths > 256
    pieces = (lengths - 1) // _LONGEST_RUN + 1
    if pieces.max() == 1:
        return lengths, values, is_long
    rest = lengths - (pieces - 1) * _LONGEST_RUN
    split = np.full(int(pieces.sum()), _LONGEST_RUN, dtype=np.int64)
    split[np.cumsum(pieces) - 1] = rest
    return split, np.repeat(values, pieces), np.repeat(is_long, pieces)


def _tokens(
    lengths: _Int, values: NDArray[np.uint64], is_long: BoolMask
) -> tuple[NDArray[np.uint64], _Int]:
    """Bits of each run token, right-aligned, and how many bits they are."""
    field = (lengths > 8).astype(np.int64) + (lengths > 16)
    field[is_long] = 3
    size = np.array(_SIZES, dtype=np.int64)[field]
    token = (field + 4) << size  # the leading 1 says "run"
    token = (token | (lengths - 1)) << _WORD_BITS
    return token.astype(np.uint64) | values, size + (3 + _WORD_BITS)


def _pack(value_count: int, tokens: NDArray[np.uint64], token_bits: _Int) -> _Bytes:
    """Header and tokens -> bytes, through 32-bit words that each token touches at most twice."""
    ends = np.cumsum(token_bits) + _HEADER_BITS
    starts = ends - token_bits
    total_bits = int(ends[-1])
    word = starts >> 5
    shift = (64 - (starts & 31) - token_bits).astype(np.uint64)
    placed = tokens << shift
    words = np.zeros((total_bits >> 5) + 3, dtype=np.uint64)
    header = value_count
    for bits, value in ((5, _WORD_BITS - 1), *((4, size - 1) for size in _SIZES)):
        header = header << bits | value
    header <<= 64 - _HEADER_BITS
    words[0], words[1] = header >> 32, header & 0xFFFFFFFF
    # Tokens are in order, so equal words are neighbours; their bits are disjoint: sum = or.
    first = np.flatnonzero(np.diff(word, prepend=-1))
    touched = word[first]
    words[touched] += np.add.reduceat(placed >> np.uint64(32), first)
    words[touched + 1] += np.add.reduceat(placed & np.uint64(0xFFFFFFFF), first)
    # The SDK adds a whole zero byte when the stream already ends on a byte.
    return words.astype(">u4").view(np.uint8)[: total_bits // 8 + 1]


def _to_bytes(rle: Sequence[int] | bytes) -> bytes:
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise InvalidRleError("rle: expected a list of integers 0 to 255") from error
    if len(data) * 8 < _HEADER_BITS:
        raise InvalidRleError(f"rle: expected at least 7 bytes, got {len(data)}")
    return data


def _read_header(data: bytes, expected_values: int) -> tuple[int, ...]:
    """Checks the header against the stated size; returns the bits of the four length fields."""
    header = int.from_bytes(data[:7], "big") >> 3  # 56 bits -> 53
    value_count = header >> 21
    word_bits = (header >> 16 & 31) + 1
    if value_count != expected_values:
        raise InvalidRleError(
            f"rle: expected {expected_values} values (width x height x 4), got {value_count}"
        )
    if word_bits != _WORD_BITS:
        raise InvalidRleError(f"rle: expected words of 8 bits, got {word_bits}")
    return tuple((header >> shift & 15) + 1 for shift in (12, 8, 4, 0))


def _check_length(data: bytes, sizes: tuple[int, ...], value_count: int) -> None:
    """Refuses more bytes than one token per value needs: reading them costs many times as much."""
    longest = (_HEADER_BITS + value_count * (3 + max(sizes) + _WORD_BITS)) // 8 + _PADDING_BYTES
    if len(data) > longest:
        raise InvalidRleError(f"rle: expected at most {longest} bytes, got {len(data)}")


def _read_units(data: bytes, sizes: tuple[int, ...], value_count: int) -> tuple[_Int, _Bytes]:
    """Reads all tokens as units of one value each.

    Returns:
        starts (U + 1,): position of each unit among the values, then value_count;
        values (U,): 0..255.
    """
    starts = _token_starts(data, sizes)
    window = np.frombuffer(data + bytes(4), dtype=np.uint8)
    head = _read_bits(window, starts, 3)
    is_run = head >= 4
    field_bits = np.array(sizes, dtype=np.int64)[head & 3]
    lengths = (_read_bits(window, starts + 3, 16) >> (16 - field_bits)) + 1
    totals = np.cumsum(lengths)
    if starts.size == 0 or totals[-1] < value_count:
        raise InvalidRleError("rle: truncated, the stream ends before the last pixel")
    used = int(np.searchsorted(totals, value_count)) + 1
    is_run, lengths = is_run[:used], lengths[:used]
    value_bit = starts[:used] + 3 + field_bits[:used]
    units = np.where(is_run, 1, lengths)
    if int(value_bit[-1] + units[-1] * _WORD_BITS) > len(data) * 8:
        raise InvalidRleError("rle: truncated inside the last token")
    if not is_run.all():
        value_bit, lengths = _spread_literals(value_bit, lengths, is_run, units)
    ends = np.cumsum(lengths)
    ends[-1] = value_count
    return np.concatenate(([0], ends)), _read_bits(window, value_bit, _WORD_BITS).astype(np.uint8)


def _spread_literals(
    value_bit: _Int, lengths: _Int, is_run: BoolMask, units: _Int
) -> tuple[_Int, _Int]:
    """Turns a literal token of n values into n units of length 1."""
    before = np.cumsum(units) - units
    rank = np.arange(int(units.sum())) - np.repeat(before, units)
    return (
        np.repeat(value_bit, units) + rank * _WORD_BITS,
        np.repeat(np.where(is_run, lengths, 1), units),
    )


def _token_starts(data: bytes, sizes: tuple[int, ...]) -> _Int:
    """Bit position of every token that lies in the stream, padding included."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    head = bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]
    # How far a run token reaches depends on its first three bits only; 0 marks literals.
    step_of_head = np.array([0] * 4 + [3 + size + _WORD_BITS for size in sizes], dtype=np.uint8)
    steps = step_of_head[head].tobytes()
    position, end = _HEADER_BITS, len(steps)
    starts: list[int] = []
    while position < end:
        starts.append(position)
        step = steps[position]
        position += step or _literal_step(data, position, sizes)
    return np.array(starts, dtype=np.int64)


def _literal_step(data: bytes, position: int, sizes: tuple[int, ...]) -> int:
    """Bits of the literal token at a position."""
    byte, shift = divmod(position, 8)
    window = int.from_bytes(data[byte : byte + 4].ljust(4, b"\0"), "big")
    window = window << shift & 0xFFFFFFFF  # 3 + 16 bits are needed, at least 25 are there
    size = sizes[window >> 29]
    length = (window << 3 & 0xFFFFFFFF) >> (32 - size)
    return 3 + size + (length + 1) * _WORD_BITS


def _read_bits(window: _Bytes, positions: _Int, count: int) -> _Int:
    """Reads `count` <= 17 bits at each bit position; the window is padded by 4 bytes."""
    byte = np.minimum(positions >> 3, window.size - 3)
    value = window[byte].astype(np.int64) << 16
    value |= window[byte + 1].astype(np.int64) << 8
    value |= window[byte + 2]
    bits: _Int = value >> (24 - count - (positions & 7)) & ((1 << count) - 1)
    return bits


def _paint(starts: _Int, is_inside: BoolMask, pixel_count: int) -> BoolMask:
    """Units of values -> flat mask; the alpha of pixel k is value 4k + 3."""
    # A last run may promise more values than the image has.
    edges = np.minimum(starts // _CHANNELS, pixel_count)
    if pixel_count < is_inside.size * _PIXELS_PER_RUN:
        return np.repeat(is_inside, np.diff(edges))
    flat = np.zeros(pixel_count, dtype=np.bool_)
    for start, end in zip(
        edges[:-1][is_inside].tolist(), edges[1:][is_inside].tolist(), strict=True
    ):
        flat[start:end] = True
    return flat
