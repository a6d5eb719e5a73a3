"""Files of images as arrays: exact, upright, bounded, and clear about what does not fit."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from pydantic import ValidationError

from celeriac import errors
from celeriac.images import pixels_of
from celeriac.inputs import Limits, collate
from celeriac.messages import CONTRACT, Envelope, encode_item
from celeriac.registry.manifest import InputSchema, Pixels
from producer.wire import envelope_message

PLAIN = Pixels(mode="RGB", scale=1.0)
COLOUR = InputSchema(kind="image", shape=(4, 6, 3), dtype="float32", pixels=PLAIN)
GREY = InputSchema(
    kind="image", shape=(4, 6), dtype="float32", pixels=Pixels(mode="L", scale=1.0)
)
RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def array_of(data: Any, schema: InputSchema, limits: Limits | None = None) -> np.ndarray:
    collated = collate([encode_item(data)], schema, limits)
    assert collated.errors == {}
    assert collated.inputs.dtype == schema.dtype
    assert collated.inputs.shape == (1, *schema.shape)
    array: np.ndarray = collated.inputs[0]
    return array


def error_of(data: Any, schema: InputSchema = COLOUR, limits: Limits | None = None) -> Any:
    collated = collate([encode_item(data)], schema, limits)
    assert collated.inputs.shape == (0, *schema.shape)
    return collated.errors[0]


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"quality": 100})],
)
def test_each_format_gives_its_pixels(format: str, options: dict[str, Any]) -> None:
    grey = Image.fromarray(PICTURE[..., 0])
    found = array_of(file_of(grey, format, **options), GREY)
    assert np.abs(found - PICTURE[..., 0]).max() <= (3 if format == "JPEG" else 0)


def test_channels_come_last_or_first() -> None:
    data = file_of(Image.fromarray(PICTURE))
    assert np.array_equal(array_of(data, COLOUR), PICTURE)
    first = InputSchema(
        kind="image", shape=(3, 4, 6), pixels=Pixels(mode="RGB", channels="first", scale=1.0)
    )
    assert np.array_equal(array_of(data, first), PICTURE.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", ["first", "last"])
def test_scale_mean_and_std_are_those_of_the_training(channels: Any) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shape = (3, 4, 6) if channels == "first" else (4, 6, 3)
    schema = InputSchema(
        kind="image", shape=shape, dtype="float32",
        pixels=Pixels(channels=channels, mean=mean, std=std),
    )
    expected = (PICTURE / 255 - mean) / std
    if channels == "first":
        expected = expected.transpose(2, 0, 1)
    found = array_of(file_of(Image.fromarray(PICTURE)), schema)
    assert np.allclose(found, expected, atol=1e-5)


def test_an_image_of_another_size_is_stretched_cut_or_refused() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255  # the middle
    data = file_of(Image.fromarray(wide))

    def square(fit: Any) -> InputSchema:
        return InputSchema(
            kind="image", shape=(5, 5), pixels=Pixels(mode="L", fit=fit, scale=1 / 255)
        )

    stretched = array_of(data, square("stretch"))
    assert stretched[0, 0] == 0
    assert stretched[2, 2] > 0.5
    assert array_of(data, square("crop")).min() > 0.5
    message = error_of(data, square("exact")).message
    assert "5 x 5" in message
    assert "40 x 10" in message


def test_a_turned_photograph_stands_upright() -> None:
    tall = PICTURE.transpose(1, 0, 2)  # as a camera held sideways has it
    exif = Image.Exif()
    exif[0x0112] = 5  # transposed
    data = file_of(Image.fromarray(tall), "PNG", exif=exif)
    assert np.array_equal(array_of(data, COLOUR), PICTURE)


def test_other_depths_and_colours_are_converted() -> None:
    deep = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(array_of(file_of(deep), GREY), PICTURE[..., 0])
    clear = Image.fromarray(np.dstack([PICTURE, np.full((4, 6), 9, np.uint8)]))
    assert np.array_equal(array_of(file_of(clear), COLOUR), PICTURE)
    bits = Image.fromarray(PICTURE[..., 0] > 99)
    assert np.array_equal(array_of(file_of(bits), GREY), (PICTURE[..., 0] > 99) * 255)
    ink = file_of(Image.fromarray(PICTURE).convert("CMYK"), "JPEG")
    assert array_of(ink, COLOUR).max() <= 255


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_seen(format: str) -> None:
    frames = [Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (200, 10, 90)]
    data = file_of(
        frames[0], format, save_all=True, append_images=frames[1:], duration=40,
        **({"lossless": True} if format == "WEBP" else {}),
    )
    assert np.array_equal(array_of(data, GREY), np.full((4, 6), 200))


def test_arrays_are_taken_as_the_model_takes_them() -> None:
    array = RNG.random((4, 6)).astype(np.float32)
    items = [
        encode_item(array), array.tolist(), encode_item(file_of(Image.fromarray(PICTURE[..., 0]))),
        encode_item((array * 100).astype(np.int16)),
    ]
    collated = collate(items, GREY)
    assert not collated.errors
    assert np.array_equal(
        collated.inputs, [array, array, PICTURE[..., 0], (array * 100).astype(np.int16)]
    )


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_says_what_would_be(data: bytes) -> None:
    error = error_of(data)
    assert isinstance(error, errors.InvalidItem)
    assert "PNG, JPEG, WEBP or GIF" in error.message
    assert f"{len(data)} bytes" in error.message


def test_formats_that_nobody_needs_are_not_decoded() -> None:
    for other in ("TIFF", "BMP", "PPM", "TGA", "ICO"):
        assert "are none" in error_of(file_of(Image.fromarray(PICTURE), other)).message


@pytest.mark.parametrize("item", ["aGVsbG8=", 7, None, True, {"a": 1}, {"$bytes": "!"}])
def test_other_items_are_refused(item: Any) -> None:
    assert isinstance(collate([item], COLOUR).errors[0], errors.InvalidItem)


def test_arrays_of_another_shape_name_both() -> None:
    message = error_of(np.zeros((6, 4, 3))).message
    assert "[4, 6, 3]" in message
    assert "[6, 4, 3]" in message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_file_that_was_cut_off_is_one_bad_item(format: str) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    whole = file_of(noise, format)
    items = [encode_item(data) for data in (whole, whole[: len(whole) // 2], whole)]
    collated = collate(items, COLOUR)
    assert list(collated.index) == [0, 2]
    assert isinstance(collated.errors[1], errors.InvalidItem)


@settings(max_examples=150)
@given(st.data())
def test_damage_is_an_error_of_the_item_or_harmless(data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))
    file = bytearray(file_of(Image.fromarray(PICTURE), chosen))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    collated = collate([encode_item(bytes(file))], COLOUR, Limits(image_pixels=10_000))
    assert len(collated.inputs) + len(collated.errors) == 1
    for error in collated.errors.values():
        assert isinstance(error, errors.InvalidItem | errors.PayloadTooLarge)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than there is."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1_000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("side", [101, 9_900, 60_000])
def test_too_many_pixels_are_refused_by_the_header(side: int) -> None:
    error = error_of(bomb(side, side), limits=Limits(image_pixels=10_000))
    assert isinstance(error, errors.PayloadTooLarge)
    assert "10,000" in error.message
    assert "max_image_pixels" in error.message


def test_as_many_pixels_as_are_allowed_are_taken() -> None:
    image = Image.fromarray(np.full((100, 100), 7, np.uint8))
    assert array_of(file_of(image), GREY, Limits(image_pixels=10_000)).max() == 7


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [((), None), ((8, 8), None), ((8, 8, 3), {"channels": "first"}), ((8, 8, 3), {"mode": "L"}),
     ((0, 8, 3), None), ((8, 8, 3), {"mean": (1.0,)}), ((8, 8, 3), {"std": (1.0, 0.0, 1.0)}),
     ((8, 8, 3), {"scale": 0}), ((8,), {"mode": "L"})],
)
def test_schemas_that_fit_no_image_are_refused(shape: Any, pixels: Any) -> None:
    with pytest.raises(ValidationError):
        InputSchema.model_validate({"kind": "image", "shape": shape, "pixels": pixels})


def test_one_channel_may_stand_in_the_shape_or_not() -> None:
    data = file_of(Image.fromarray(PICTURE[..., 0]))
    for shape, channels in (((4, 6), "last"), ((4, 6, 1), "last"), ((1, 4, 6), "first")):
        schema = InputSchema.model_validate({
            "kind": "image", "shape": shape,
            "pixels": {"mode": "L", "channels": channels, "scale": 1.0},
        })
        assert np.array_equal(array_of(data, schema).reshape(4, 6), PICTURE[..., 0])


def test_an_image_that_memory_cannot_hold_is_one_bad_item(monkeypatch: pytest.MonkeyPatch) -> None:
    small = file_of(Image.fromarray(PICTURE))
    large = file_of(Image.fromarray(np.zeros((50, 50, 3), np.uint8)))
    resize = Image.Image.resize

    def hungry(image: Image.Image, *arguments: Any) -> Image.Image:
        if image.width == 50:
            raise MemoryError
        return resize(image, *arguments)

    monkeypatch.setattr(Image.Image, "resize", hungry)
    collated = collate([encode_item(data) for data in (small, large, small)], COLOUR)
    assert list(collated.index) == [0, 2]
    assert isinstance(collated.errors[1], errors.ResourceExhausted)


def test_a_file_travels_as_base64_once() -> None:
    data = file_of(Image.fromarray(RNG.integers(0, 256, (200, 200, 3)).astype(np.uint8)))
    item = encode_item(data)
    envelope = Envelope(
        v=CONTRACT, id="1", model="m", items=[item], reply_to="me", deadline_ms=1
    )
    message = envelope_message(envelope, "realtime.cpu.m")
    assert item["$bytes"].encode() in message
    assert len(message) < len(data) * 4 / 3 + 2_000


def test_a_margin_is_made_and_cut_off() -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (50, 70, 3)).astype(np.uint8))
    wanted = InputSchema(
        kind="image", shape=(4, 6, 3), dtype="float32", pixels=Pixels(scale=1.0, margin=2)
    )
    larger = np.asarray(picture.resize((10, 8), Image.Resampling.BILINEAR), dtype=np.float32)
    assert (array_of(file_of(picture), wanted) == larger[2:6, 2:8]).all()
    as_it_is = array_of(file_of(Image.fromarray(PICTURE)), wanted)
    assert not (as_it_is == PICTURE).all()  # its own size is no exception
    with pytest.raises(ValidationError, match="a margin is for the fit 'stretch'"):
        Pixels.model_validate({"margin": 2, "fit": "crop"}) and InputSchema(
            kind="image", shape=(4, 6, 3), pixels=Pixels(margin=2, fit="crop")
        )


@pytest.mark.parametrize("channels", ["last", "first"])
def test_blue_may_come_first(channels: Any) -> None:
    pixels = Pixels(scale=1.0, mean=(1.0, 2.0, 3.0), order="bgr", channels=channels)
    shape = (4, 6, 3) if channels == "last" else (3, 4, 6)
    wanted = InputSchema(kind="image", shape=shape, dtype="float32", pixels=pixels)
    found = array_of(file_of(Image.fromarray(PICTURE)), wanted)
    blue_first = PICTURE[..., ::-1].astype(np.float32) - [1.0, 2.0, 3.0]
    assert (found == (blue_first if channels == "last" else blue_first.transpose(2, 0, 1))).all()
    assert np.allclose(pixels_of(found[None], wanted)[0], PICTURE)
