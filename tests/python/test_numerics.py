"""sotto/numerics.h against ml_dtypes and numpy: every code, and every float that matters.

The two agree on all finite values in range. They differ, by the rules that the header documents,
on overflow (sotto saturates) and on what NaN and infinity become.
"""

import ctypes
import os

import ml_dtypes
import numpy as np
import pytest

FORMATS = {
    # name: (numpy dtype, codes without the sign, largest finite code, sign bit)
    "bf16": (ml_dtypes.bfloat16, 0x8000, 0x7F7F, 0x8000),
    "f16": (np.float16, 0x8000, 0x7BFF, 0x8000),
    "e4m3": (ml_dtypes.float8_e4m3fn, 0x80, 0x7E, 0x80),
    "e5m2": (ml_dtypes.float8_e5m2, 0x80, 0x7B, 0x80),
    "e2m1": (ml_dtypes.float4_e2m1fn, 0x8, 0x7, 0x8),
}
KEEPS_INFINITY = {"bf16": 0x7F80, "f16": 0x7C00}

every_format = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture(scope="session")
def bridge():
    """encode(name, floats) -> codes and decode(name, codes) -> floats."""
    path = os.environ.get("SOTTO_TEST_LIB")
    if not path:
        pytest.skip("SOTTO_TEST_LIB is not set")
    library = ctypes.CDLL(path)
    for function in (library.sotto_encode, library.sotto_decode):
        function.restype = ctypes.c_bool  # false: no format of that name
    library.sotto_ue8m0_round_up.restype = None

    class Bridge:
        @staticmethod
        def call(function, name, *arrays):
            pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
            known = function(*name, *pointers, ctypes.c_size_t(arrays[0].size))
            assert known is not False, f"unknown format {name}"
            return arrays[-1]

        def encode(self, name, values):
            values = np.ascontiguousarray(values, np.float32)
            codes = np.empty(values.shape, np.uint16)
            return self.call(library.sotto_encode, [name.encode()], values, codes)

        def decode(self, name, codes):
            codes = np.ascontiguousarray(codes, np.uint16)
            values = np.empty(codes.shape, np.float32)
            return self.call(library.sotto_decode, [name.encode()], codes, values)

        def round_up(self, values):
            values = np.ascontiguousarray(values, np.float32)
            codes = np.empty(values.shape, np.uint16)
            return self.call(library.sotto_ue8m0_round_up, [], values, codes)

    return Bridge()


def stored(codes, dtype):
    """Codes as an array of the numpy dtype."""
    width = np.uint16 if np.dtype(dtype).itemsize == 2 else np.uint8
    return codes.astype(width).view(dtype)


def as_floats(codes, dtype):
    return stored(codes, dtype).astype(np.float32)


def codes_of(values, dtype, mask):
    """ml_dtypes' own encoding of floats."""
    with np.errstate(over="ignore"):
        encoded = np.asarray(values, np.float32).astype(dtype)
    return encoded.view(np.uint16 if encoded.itemsize == 2 else np.uint8).astype(np.uint16) & mask


def interesting_floats(name):
    """Every code's value, every midpoint of neighbours, the floats on both sides of each, every
    bf16 value, float denormals, and random floats of every magnitude; both signs; finite."""
    dtype, _, largest, _ = FORMATS[name]
    codes = as_floats(np.arange(largest + 1), dtype).astype(np.float64)
    middles = ((codes[:-1] + codes[1:]) / 2).astype(np.float32)
    exact = np.concatenate([codes.astype(np.float32), middles])
    rng = np.random.default_rng(1)
    largest_float = np.float32(np.finfo(np.float32).max)
    values = np.concatenate([
        exact,
        np.nextafter(exact, np.float32(np.inf)),
        np.nextafter(exact, np.float32(-np.inf)),
        (np.arange(0x8000, dtype=np.uint32) << 16).view(np.float32),
        np.arange(64, dtype=np.uint32).view(np.float32),
        rng.integers(0, 0x00800000, 2000, dtype=np.uint32).view(np.float32),
        rng.integers(0, 0x7F800000, 500_000, dtype=np.uint32).view(np.float32),
        rng.standard_normal(500_000, np.float32),
        np.array([largest_float, 464, 479.9, 480, 65519.9, 65520, 61439.9, 61440], np.float32),
    ])
    values = values[np.isfinite(values)]
    return np.concatenate([values, -values])


@every_format
def test_every_code_is_the_same_number(bridge, name):
    dtype, half, _, sign = FORMATS[name]
    codes = np.arange(2 * half)
    got, expected = bridge.decode(name, codes), as_floats(codes, dtype)
    np.testing.assert_array_equal(got, expected)  # NaN where NaN, infinite where infinite
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))
    assert np.array_equal(bridge.encode(name, got)[number & np.isfinite(expected)],
                          codes[number & np.isfinite(expected)])


@every_format
def test_encoding_is_the_same_in_range_and_saturates_beyond(bridge, name):
    dtype, half, largest, sign = FORMATS[name]
    values = interesting_floats(name)
    got = bridge.encode(name, values)
    expected = codes_of(values, dtype, 2 * half - 1)
    overflow = (expected & (half - 1)) > largest
    if name == "e2m1":  # ml_dtypes saturates here, too
        assert not overflow.any()
    saturated = np.where(np.signbit(values), largest | sign, largest)
    np.testing.assert_array_equal(got, np.where(overflow, saturated, expected))
    assert np.isfinite(bridge.decode(name, got)).all()


@every_format
def test_signed_zero_and_infinity(bridge, name):
    _, _, largest, sign = FORMATS[name]
    infinity = KEEPS_INFINITY.get(name, largest)
    got = bridge.encode(name, [0.0, -0.0, np.inf, -np.inf])
    np.testing.assert_array_equal(got, [0, sign, infinity, infinity | sign])


@every_format
def test_nan(bridge, name):
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF], np.uint32).view(np.float32)
    got = bridge.encode(name, nans)
    negative = np.array([False, True, False, True])
    sign = FORMATS[name][3]
    if name == "e2m1":
        np.testing.assert_array_equal(got, 0x7)
    elif name in ("e4m3", "e5m2"):
        np.testing.assert_array_equal(got, np.where(negative, 0x7F | sign, 0x7F))
    else:
        quiet = {"bf16": 0x40, "f16": 0x200}[name]
        assert np.isnan(bridge.decode(name, got)).all()
        assert np.all(got & quiet)
        np.testing.assert_array_equal((got & sign) != 0, negative)


def test_ue8m0_codes_are_the_same_numbers(bridge):
    codes = np.arange(256)
    got = bridge.decode("ue8m0", codes)
    np.testing.assert_array_equal(got, as_floats(codes, ml_dtypes.float8_e8m0fnu))
    np.testing.assert_array_equal(bridge.encode("ue8m0", got), codes)


def positive_floats():
    values = interesting_floats("bf16")
    return np.unique(values[values > 0])


def test_ue8m0_is_the_nearest_power_of_two(bridge):
    values = positive_floats()
    got = bridge.encode("ue8m0", values)
    # ml_dtypes rounds subnormal floats above 2^-127 up, whichever side of the middle they are on.
    normal = values >= 2.0**-126
    expected = codes_of(values[normal], ml_dtypes.float8_e8m0fnu, 0xFF)
    overflow = values[normal] >= 1.5 * 2.0**127  # NaN in ml_dtypes
    assert np.all(expected[overflow] == 0xFF)
    np.testing.assert_array_equal(got[normal], np.where(overflow, 254, expected))
    np.testing.assert_array_equal(got[~normal], values[~normal] >= 1.5 * 2.0**-127)


def test_ue8m0_round_up_is_the_smallest_power_of_two_not_below(bridge):
    values = positive_floats()
    got = bridge.round_up(values).astype(np.int64)
    wanted = np.ceil(np.log2(values.astype(np.float64)))
    # log2 rounds; put right where the power it names lies below, or one less would do.
    wanted += np.exp2(wanted) < values
    wanted -= np.exp2(wanted - 1) >= values
    np.testing.assert_array_equal(got, np.clip(wanted.astype(np.int64) + 127, 0, 254))


def test_ue8m0_special_values(bridge):
    special = [0.0, -0.0, np.inf, np.nan, -1.0, -np.inf]
    np.testing.assert_array_equal(bridge.encode("ue8m0", special), [0, 0, 254, 255, 255, 255])
    np.testing.assert_array_equal(bridge.round_up(special), [0, 0, 254, 255, 255, 255])
