"""Images as uint8 arrays (H, W, C), grey, RGB or RGBA (C = 1, 3, 4): decode, encode, fit, lay out."""

import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, PngImagePlugin
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

Fit = Literal["resize", "crop", "pad"]
Picture = UInt8[np.ndarray, "height width channels"]
T = TypeVar("T")

# Pillow warns where it guesses (broken EXIF, bad animation chunks); a guess about someone's data is an error
# here. Set once for Pillow's modules, because warnings.catch_warnings is not safe in threads.
warnings.filterwarnings("error", category=UserWarning, module=r"PIL\.")

# The decoders are named, not found by Image.open: no other format can be reached, and the size check is ours,
# made before any pixel is decoded. JpegImageFile reads the first picture of a multi-picture phone JPEG.
_DECODERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"RIFF": WebPImageFile,
}
# Texts of a PNG come inflated, a thousand times the file's bytes; what tells its orientation is among them.
PngImagePlugin.MAX_TEXT_MEMORY = 2 * PngImagePlugin.MAX_TEXT_CHUNK
_ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # what may have an orientation
_PNG_END = b"IEND\xaeB`\x82"
_FILTER = Image.Resampling.LANCZOS
# Of a JPEG, each of which takes its decoder over all pixels: encoders write a dozen, 18 for four channels. A
# small image may have more, up to as many pixels in all scans together as one of SCANNED_PIXELS.
USUAL_SCANS, MAX_SCANS, SCANNED_PIXELS = 20, 64, 1 << 24
# A marker of a JPEG: neither a stuffed byte, a fill byte, nor one of those that have no length of their own.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_SCAN, _END = 0xDA, 0xD9
_STRIP_PIXELS = 1 << 14  # composited at once
MAX_SIDE = 1 << 14  # a filter that scales a side down weighs all of it for each pixel that is left


class ImageError(ValueError):
    """Bytes or an array that cannot become the image asked for; the message names the value and the limit."""


class ImageTooLargeError(ImageError):
    """An encoded image whose header declares more pixels than allowed, or a JPEG of too many scans.

    `size` is the height and width that it declares, where they are too many pixels and are known; `value` is
    more than `limit` where something else is too large.
    """

    def __init__(
        self,
        message: str,
        size: tuple[int, int] | None = None,
        *,
        value: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message)
        self.size, self.value, self.limit = size, value, limit


def decode_image(data: bytes, max_pixels: int, keep_alpha: bool = False) -> Picture:
    """Decode one PNG, JPEG or WebP file to 1 (grey), 3 (RGB) or, where alpha is kept, 4 (RGBA) channels.

    Alpha is composited on black otherwise, palettes are resolved and the EXIF orientation is applied. Raises
    ImageTooLargeError for more than `max_pixels` or too many scans, before a pixel is decoded, and ImageError
    for other formats, damaged or truncated data, animations and 16-bit samples.
    """
    return _opened(data, max_pixels, partial(_decoded, keep_alpha=keep_alpha))


def decoded_bytes(data: bytes, max_pixels: int, keep_alpha: bool = False) -> int:
    """Return the bytes of what decode_image makes of a file, as its header tells; raise as it does before."""
    return _opened(data, max_pixels, partial(_declared_bytes, keep_alpha=keep_alpha))


def encode_png(image: Picture, *, is_smallest: bool = False) -> bytes:
    """Encode a grey (C = 1), RGB (C = 3) or RGBA (C = 4) image as PNG, with more effort to be smallest."""
    buffer = BytesIO()
    _to_pillow(image).save(buffer, "PNG", optimize=is_smallest)
    return buffer.getvalue()


def encode_webp(image: Picture) -> bytes:
    """Encode a grey, RGB or RGBA image as lossless WebP, with the most effort."""
    buffer = BytesIO()
    _to_pillow(image).save(buffer, "WEBP", lossless=True, exact=True, method=6, quality=100)
    return buffer.getvalue()


def fit_image(
    image: Picture, shape: tuple[int, int, int], fit: Fit
) -> UInt8[np.ndarray, "height_out width_out channels_out"]:
    """Fit an image to the shape (C', H', W') and return it as (H', W', C').

    `resize` stretches, `crop` scales to cover and cuts around the centre, `pad` scales to fit inside and
    centres on black. All scale with an antialiasing filter.
    """
    channels, height, width = shape
    source = _to_pillow(convert_channels(image, channels))
    size = (width, height)
    if fit == "resize":
        fitted = source.resize(size, _FILTER)
    elif fit == "crop":
        fitted = ImageOps.fit(source, size, _FILTER)
    else:
        fitted = _pad(source, size)
    return np.asarray(fitted).reshape(height, width, channels)


def convert_channels(
    images: UInt8[np.ndarray, "... channels"], channels: int
) -> UInt8[np.ndarray, "... channels_out"]:
    """Convert between grey (1) and RGB (3) channels.

    Grey is the luma of ITU-R 601, 0.299 R + 0.587 G + 0.114 B, in 1/65536 and rounded as Pillow does.
    """
    actual = images.shape[-1]
    if actual == channels:
        return images
    if (actual, channels) == (1, 3):
        return np.repeat(images, 3, axis=-1)
    if (actual, channels) == (3, 1):
        red, green, blue = np.moveaxis(images.astype(np.uint32), -1, 0)
        luma: np.ndarray = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        return luma.astype(np.uint8)[..., None]
    raise ImageError(f"{actual} channels cannot become {channels}; only 1 and 3 convert to each other")


def contact_sheet(
    images: UInt8[np.ndarray, "count height width channels"], columns: int | None = None
) -> UInt8[np.ndarray, "sheet_height sheet_width channels"]:
    """Lay images out row by row in a near-square grid (or `columns` wide) with one-pixel black gaps."""
    count, height, width, channels = images.shape
    if count == 0:
        raise ImageError("a contact sheet of 0 images was asked for; it needs at least 1")
    columns = min(columns or math.isqrt(count - 1) + 1, count)
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + 1, width + 1, channels), np.uint8)
    cells[:count, :height, :width] = images
    grid = cells.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def _opened(data: bytes, max_pixels: int, use: Callable[[ImageFile], T]) -> T:
    decoder = next((found for magic, found in _DECODERS.items() if data.startswith(magic)), None)
    if decoder is None:
        raise ImageError(f"not a PNG, JPEG or WebP file; it starts with {data[:8].hex(' ') or 'nothing'}")
    try:
        image = decoder(BytesIO(data))
        _check_header(image, max_pixels)
        if decoder is JpegImageFile:
            _check_scans(data, image.width * image.height)
        if decoder is PngImageFile and _PNG_END not in data:  # the one loss that decoding does not notice
            raise ImageError("truncated PNG file: its end chunk is missing")
        return use(image)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # WebP allocates on opening, so Pillow looks before we can
        raise ImageTooLargeError(str(error)) from error
    except Exception as error:  # Pillow's decoders raise almost anything at hostile bytes
        raise ImageError(f"damaged {decoder.format} file: {error}") from error


def _decoded(image: ImageFile, keep_alpha: bool) -> Picture:
    image.load()  # what tells the orientation of a PNG may follow its pixels
    if _ORIENTED & image.info.keys():
        ImageOps.exif_transpose(image, in_place=True)
    return _pixels(image, keep_alpha)


def _declared_bytes(image: ImageFile, keep_alpha: bool) -> int:
    channels = 1 if _is_grey(image) else 3
    if image.has_transparency_data and keep_alpha:
        channels = 4
    return image.width * image.height * channels


def _check_header(image: ImageFile, max_pixels: int) -> None:
    pixels, size = image.width * image.height, (image.height, image.width)
    if pixels > max_pixels:
        message = f"{image.width}×{image.height} = {pixels} pixels; the limit is {max_pixels}"
        raise ImageTooLargeError(message, size)
    if (side := max(image.width, image.height)) > MAX_SIDE:
        message = f"{image.width}×{image.height}: a side of {side}; the limit is {MAX_SIDE}"
        raise ImageTooLargeError(message, value=side, limit=MAX_SIDE)
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise ImageError(f"an animation of {frames} frames; the limit is 1")
    if any("16" in str(tile.args) for tile in image.tile):  # Pillow would drop the low byte in silence
        raise ImageError("16 bits a sample; the limit is 8")


def _check_scans(data: bytes, pixels: int) -> None:
    most = min(MAX_SCANS, max(USUAL_SCANS, USUAL_SCANS * SCANNED_PIXELS // pixels))
    if (scans := _scans(data, most)) > most:
        message = f"a JPEG of {pixels} pixels in {scans} scans or more; the limit is {most}"
        raise ImageTooLargeError(message, value=scans, limit=most)


def _scans(data: bytes, most: int) -> int:
    """Return the scans of a JPEG, or one more than `most` where there are more."""
    at = scans = 0
    while scans <= most and (marker := _MARKER.search(data, at)) and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        at = marker.end() + max(2, length)
    return scans


def _pixels(image: Image.Image, keep_alpha: bool) -> Picture:
    is_grey = _is_grey(image)
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA")) if keep_alpha else _on_black(image, is_grey)
    mode = "L" if is_grey else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if is_grey else pixels


def _on_black(image: Image.Image, is_grey: bool) -> Picture:
    """Composite on black, a strip of rows at a time: what is computed takes many times an image's bytes."""
    width, height = image.size
    whole = np.empty((height, width, 1 if is_grey else 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        layers = np.asarray(strip.convert("LA" if is_grey else "RGBA"))
        colour, alpha = layers[..., :-1], layers[..., -1:]
        whole[top : top + rows] = (colour.astype(np.uint16) * alpha + 127) // 255
    return whole


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA")


def _to_pillow(image: Picture) -> Image.Image:
    if image.shape[-1] not in (1, 3, 4):
        raise ImageError(
            f"an image of {image.shape[-1]} channels; 1 (grey), 3 (RGB) or 4 (RGBA) can be written"
        )
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _pad(source: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / source.width, size[1] / source.height)
    # At least one pixel: ImageOps.pad rounds the short side of a thin line to nothing.
    inner = max(1, round(source.width * scale)), max(1, round(source.height * scale))
    canvas = Image.new(source.mode, size)
    canvas.paste(source.resize(inner, _FILTER), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas
