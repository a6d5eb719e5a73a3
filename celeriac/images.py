"""From the bytes of an image file to the array that a model takes. Pillow is imported on use."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from celeriac import errors
from celeriac.registry.manifest import InputSchema, Pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is decoded. Pillow knows sixty formats; each is code that a stranger's bytes could reach."""


def decode(data: bytes, schema: InputSchema, max_pixels: int) -> Any:
    """The image as an array of the schema's shape and dtype.

    Raises as :func:`decode_bytes`.
    """
    return scaled(decode_bytes(data, schema, max_pixels), schema)


def decode_bytes(data: bytes, schema: InputSchema, max_pixels: int) -> Any:
    """The pixels of the image, 0 to 255, as an array of the schema's shape; :func:`scaled` makes
    inputs of one or of many, which takes a batch a tenth of the time.

    Turned as its EXIF data says; of an animation, the first frame; transparency is dropped.

    Raises InvalidItem for what is no image or is damaged, PayloadTooLarge for more than
    ``max_pixels`` (known before a pixel is decoded), RuntimeMissing without Pillow.
    """
    import numpy as np

    pixels = schema.pixels or Pixels()
    image = _opened(data, max_pixels)
    try:
        image = _fitted(_converted(image, pixels.mode), schema.size, pixels)
        content = image.tobytes()
    except (MemoryError, errors.CeleriacError):
        raise
    except Exception as error:
        raise errors.InvalidItem(
            f"the {image.format} image of {len(data):,} bytes is damaged: {errors.told(error)}"
        ) from error
    channels = () if pixels.mode == "L" else (3,)
    values = np.frombuffer(content, np.uint8).reshape(image.height, image.width, *channels)
    if pixels.order == "bgr":
        values = values[..., ::-1]
    if pixels.channels == "first" and values.ndim == 3:
        values = values.transpose(2, 0, 1)
    return values.reshape(schema.shape)


def scaled(values: Any, schema: InputSchema) -> Any:
    """Pixels of one image, or of a stack of them, as the model takes them."""
    scale, offset = _factors(schema)
    values = values.astype(schema.dtype)
    values *= scale
    if offset is not None:
        values += offset
    return values


def _opened(data: bytes, max_pixels: int) -> Any:
    """The image with its header read, and nothing else."""
    pillow = _pillow()
    try:
        image = pillow.open(io.BytesIO(data), formats=FORMATS)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise errors.PayloadTooLarge(
            f"the image has many more pixels than the {max_pixels:,} that are allowed "
            "([realtime] max_image_pixels): send it smaller"
        ) from error
    except Exception as error:
        raise errors.InvalidItem(
            "the model takes an image (PNG, JPEG, WEBP or GIF); these "
            f"{len(data):,} bytes are none"
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise errors.PayloadTooLarge(
            f"the image has {width:,} x {height:,} pixels; at most {max_pixels:,} are allowed "
            "([realtime] max_image_pixels): send it smaller"
        )
    return image


def _converted(image: Any, mode: str) -> Any:
    """Upright, in one colour (``L``) or three (``RGB``), 8 bits each."""
    from PIL import ImageOps

    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = _eight_bits(image)
    image.load()  # a PNG may say how it lies after its pixels
    if not image.info.keys().isdisjoint(_LIE):
        ImageOps.exif_transpose(image, in_place=True)
    return image if image.mode == mode else image.convert(mode)


_LIE = ("exif", "Raw profile type exif", "Raw profile type APP1", "xmp", "XML:com.adobe.xmp")
"""What of an image's data may say how it lies; to look closer takes as long as a small image."""


def _eight_bits(image: Any) -> Any:
    import numpy as np

    return _pillow().fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _fitted(image: Any, size: tuple[int, int], pixels: Pixels) -> Any:
    height, width = size
    if pixels.margin:
        return _without_margin(image, size, pixels.margin)
    if image.size == (width, height):
        return image
    pillow = _pillow()
    if pixels.fit == "exact":
        raise errors.InvalidItem(
            f"the model takes images of {width} x {height} pixels (width x height); "
            f"found {image.width} x {image.height}"
        )
    if pixels.fit == "crop":
        from PIL import ImageOps

        return ImageOps.fit(image, (width, height), pillow.Resampling.BILINEAR)
    return image.resize((width, height), pillow.Resampling.BILINEAR)


def _without_margin(image: Any, size: tuple[int, int], margin: int) -> Any:
    height, width = size
    larger = (width + 2 * margin, height + 2 * margin)
    stretched = image.resize(larger, _pillow().Resampling.BILINEAR)
    return stretched.crop((margin, margin, margin + width, margin + height))


@lru_cache(maxsize=64)
def _factors(schema: InputSchema) -> tuple[Any, Any]:
    """``(pixel * scale - mean) / std`` as one product and one sum, of the array's shape."""
    import numpy as np

    pixels = schema.pixels or Pixels()
    mean = np.array(pixels.mean or (0.0,), dtype=schema.dtype)
    std = np.array(pixels.std or (1.0,), dtype=schema.dtype)
    if pixels.channels == "first" and len(schema.shape) == 3:
        mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    scale = (np.array(pixels.scale) / std).astype(schema.dtype)
    return scale, (-mean / std).astype(schema.dtype) if pixels.mean else None


_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@lru_cache(maxsize=1)
def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise errors.RuntimeMissing(
            "models of images need Pillow, which is not installed; run: pip install pillow"
        ) from error
    return Image


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height by the file's header; None for what is no image, or without Pillow."""
    if data.startswith(_PNG):  # a sixtieth of what Pillow takes
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    try:
        width, height = _pillow().open(io.BytesIO(data), formats=FORMATS).size
    except Exception:  # noqa: BLE001 - a stranger's bytes
        return None
    return width, height


def pixels_of(values: Any, schema: InputSchema) -> Any:
    """Pixels of 0 to 255, ``(n, height, width, channels)``, of arrays that a model is given."""
    import numpy as np

    scale, offset = _factors(schema)
    values = values.astype(np.float64)
    pixels = (values if offset is None else values - offset) / scale
    if len(schema.shape) == 2:
        return pixels[..., None]
    wanted = schema.pixels or Pixels()
    if wanted.channels == "first":
        pixels = np.moveaxis(pixels, 1, -1)
    return pixels[..., ::-1] if wanted.order == "bgr" else pixels
