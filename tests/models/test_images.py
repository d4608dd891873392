"""Images: what is decoded to what, what is refused before it costs anything, and how fitting works."""

import struct
import subprocess
import sys
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from models.images import (
    MAX_SCANS,
    MAX_SIDE,
    USUAL_SCANS,
    ImageError,
    ImageTooLargeError,
    contact_sheet,
    convert_channels,
    decode_image,
    decoded_bytes,
    encode_png,
    encode_webp,
    fit_image,
)

MAX_PIXELS = 1 << 16


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + chunk(b"IEND", b"")


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


class TestDecoding:
    def test_grey_png(self) -> None:
        decoded = decode_image(png(3, 1, 8, GREY, b"\0\x00\x7f\xff"), MAX_PIXELS)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, [[[0], [127], [255]]])

    def test_rgb_png(self) -> None:
        decoded = decode_image(png(2, 1, 8, RGB, b"\0\x01\x02\x03\x04\x05\x06"), MAX_PIXELS)
        np.testing.assert_array_equal(decoded, [[[1, 2, 3], [4, 5, 6]]])

    def test_lossless_webp(self) -> None:
        image = noise(5, 7, 3)
        data = saved(Image.fromarray(image), "WEBP", lossless=True)
        np.testing.assert_array_equal(decode_image(data, MAX_PIXELS), image)

    def test_jpeg_equals_the_library_that_wrote_it(self) -> None:
        data = saved(Image.fromarray(noise(9, 6, 3)), "JPEG", quality=90)
        expected = np.asarray(Image.open(BytesIO(data)))
        np.testing.assert_array_equal(decode_image(data, MAX_PIXELS), expected)

    def test_grey_jpeg_has_one_channel(self) -> None:
        data = saved(Image.new("L", (4, 2), 90), "JPEG")
        np.testing.assert_array_equal(decode_image(data, MAX_PIXELS), np.full((2, 4, 1), 90))

    @pytest.mark.parametrize(
        ("depth", "row", "expected"),
        [(1, 0b01000000, [0, 255]), (2, 0b01100000, [85, 170]), (4, 0x1F, [17, 255])],
    )
    def test_fewer_than_8_bits_are_scaled_to_the_full_range(
        self, depth: int, row: int, expected: list[int]
    ) -> None:
        decoded = decode_image(png(2, 1, depth, GREY, bytes([0, row])), MAX_PIXELS)
        assert decoded[0, :, 0].tolist() == expected

    def test_palette_is_resolved_to_rgb(self) -> None:
        palette = chunk(b"PLTE", b"\x01\x02\x03\x04\x05\x06")
        decoded = decode_image(png(2, 1, 8, PALETTE, b"\0\1\0", palette), MAX_PIXELS)
        np.testing.assert_array_equal(decoded, [[[4, 5, 6], [1, 2, 3]]])

    def test_alpha_is_composited_on_black(self) -> None:
        # round(200 · 128 / 255) = 100, round(255 · 1 / 255) = 1
        grey = decode_image(png(2, 1, 8, GREY_ALPHA, b"\0\xc8\x80\xff\x01"), MAX_PIXELS)
        np.testing.assert_array_equal(grey, [[[100], [1]]])
        colour = decode_image(png(1, 1, 8, RGB_ALPHA, b"\0\xc8\xff\x00\x80"), MAX_PIXELS)
        np.testing.assert_array_equal(colour, [[[100, 128, 0]]])

    def test_transparent_colour_becomes_black(self) -> None:
        transparent = chunk(b"tRNS", b"\0\x64")
        decoded = decode_image(png(2, 1, 8, GREY, b"\0\x64\x65", transparent), MAX_PIXELS)
        np.testing.assert_array_equal(decoded, [[[0], [101]]])

    def test_cmyk_jpeg_becomes_rgb(self) -> None:
        # Pillow's conversion: (255 − C)(255 − K) / 255
        data = saved(Image.new("CMYK", (8, 8), (10, 20, 30, 40)), "JPEG", quality=100)
        np.testing.assert_array_equal(decode_image(data, MAX_PIXELS), np.full((8, 8, 3), [207, 198, 190]))

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_exif_orientation_is_applied(self, file_format: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to view
        stored = noise(2, 3, 3)
        data = saved(Image.fromarray(stored), file_format, exif=exif, lossless=True)
        np.testing.assert_array_equal(decode_image(data, MAX_PIXELS), np.rot90(stored, -1))

    def test_first_picture_of_a_multi_picture_jpeg(self) -> None:
        pictures = [Image.new("L", (8, 8), level) for level in (30, 200)]
        data = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
        np.testing.assert_array_equal(decode_image(data, MAX_PIXELS), np.full((8, 8, 1), 30))


class TestRefusing:
    @pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a\1\0\1\0\0\0\0", b"II*\0\x08\0\0\0", b"BM\0\0"])
    def test_other_formats(self, data: bytes) -> None:
        shown = data[:8].hex(" ") or "nothing"
        with pytest.raises(ImageError, match=f"^not a PNG, JPEG or WebP file; it starts with {shown}$"):
            decode_image(data, MAX_PIXELS)

    def test_other_riff_files(self) -> None:
        with pytest.raises(ImageError, match=r"^damaged WEBP file: not a WEBP file$"):
            decode_image(b"RIFF\x24\0\0\0WAVEfmt ", MAX_PIXELS)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
    def test_every_truncation(self, file_format: str) -> None:
        data = saved(Image.fromarray(noise(4, 4, 3)), file_format)
        for length in range(len(data)):
            with pytest.raises(ImageError):
                decode_image(data[:length], MAX_PIXELS)

    def test_one_flipped_bit_in_a_png_never_gives_other_pixels(self) -> None:
        image = noise(4, 4, 3)
        encoded = encode_png(image)
        refused = 0
        for position in range(len(encoded) * 8):
            damaged = bytearray(encoded)
            damaged[position // 8] ^= 1 << position % 8
            try:
                np.testing.assert_array_equal(decode_image(bytes(damaged), MAX_PIXELS), image)
            except ImageError:
                refused += 1
        assert refused > len(encoded) * 6

    @pytest.mark.parametrize("colour_type", [GREY, RGB, GREY_ALPHA, RGB_ALPHA])
    def test_16_bit_samples(self, colour_type: int) -> None:
        with pytest.raises(ImageError, match=r"^16 bits a sample; the limit is 8$"):
            decode_image(png(1, 1, 16, colour_type, b"\0" * 9), MAX_PIXELS)

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_animations(self, file_format: str) -> None:
        frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 100, 200)]
        data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match=r"^an animation of 3 frames; the limit is 1$"):
            decode_image(data, MAX_PIXELS)

    @pytest.mark.parametrize(
        ("name", "prefix"), [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")]
    )
    def test_compressed_metadata_that_expands(self, name: bytes, prefix: bytes) -> None:
        metadata = chunk(name, prefix + zlib.compress(bytes(2_000_000)))
        with pytest.raises(ImageError, match="Decompressed data too large"):
            decode_image(png(1, 1, 8, GREY, b"\0\0", metadata), MAX_PIXELS)

    def test_compressed_texts_that_expand_together(self) -> None:
        text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 19)))
        assert decode_image(png(1, 1, 8, GREY, b"\0\0", text * 3), MAX_PIXELS).shape == (1, 1, 1)
        with pytest.raises(ImageError, match="damaged PNG file: Too much memory used in text chunks"):
            decode_image(png(1, 1, 8, GREY, b"\0\0", text * 5), MAX_PIXELS)

    def test_what_pillow_only_warns_about(self) -> None:
        # Outside pytest, which makes every warning an error by itself.
        data = png(1, 1, 8, GREY, b"\0\0", chunk(b"acTL", struct.pack(">II", 0, 0)))
        script = (
            "import sys; from models.images import ImageError, decode_image\n"
            f"try: decode_image(bytes.fromhex('{data.hex()}'), 1)\n"
            "except ImageError as error: print(error)"
        )
        answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert answer.stdout.startswith("damaged PNG file: Invalid APNG")
        assert answer.stderr == ""

    @settings(max_examples=300, deadline=None)
    @given(data=st.data(), file_format=st.sampled_from(["PNG", "JPEG", "WEBP"]))
    def test_flipped_bits_give_an_image_or_an_image_error(
        self, data: st.DataObject, file_format: str
    ) -> None:
        encoded = bytearray(saved(Image.fromarray(noise(6, 5, 3)), file_format))
        for position in data.draw(st.lists(st.integers(0, len(encoded) * 8 - 1), min_size=1, max_size=4)):
            encoded[position // 8] ^= 1 << position % 8
        try:
            decoded = decode_image(bytes(encoded), MAX_PIXELS)
        except ImageError:
            return
        assert decoded.dtype == np.uint8
        assert decoded.shape[0] * decoded.shape[1] <= MAX_PIXELS
        assert decoded.shape[2] in (1, 3)

    @settings(deadline=None)
    @given(
        magic=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8 "]),
        rest=st.binary(max_size=200),
    )
    def test_random_bytes_give_an_image_error(self, magic: bytes, rest: bytes) -> None:
        with pytest.raises(ImageError):
            decode_image(magic + rest, MAX_PIXELS)


def with_transparency(mode: str) -> Image.Image:
    """Return noise of more rows than are composited at once, as transparent as a PNG of a mode may be."""
    colour = Image.fromarray(noise(700, 50, 3))
    if mode in ("LA", "RGBA"):
        return Image.fromarray(noise(700, 50, len(mode)))
    image = colour.convert(mode) if mode != "P" else colour.quantize(200)
    first = image.getpixel((0, 0))
    image.info["transparency"] = bytes(range(200)) if mode == "P" else first
    return image


class TestTransparency:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_is_composited_as_if_at_once(self, mode: str) -> None:
        image = with_transparency(mode)
        is_grey = mode in ("1", "L", "LA")
        layers = np.asarray(image.convert("LA" if is_grey else "RGBA")).astype(int)
        expected = (layers[..., :-1] * layers[..., -1:] + 127) // 255
        assert (layers[..., -1] < 255).any()
        np.testing.assert_array_equal(decode_image(saved(image, "PNG"), MAX_PIXELS), expected)


@pytest.mark.parametrize("keep_alpha", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_header_tells_what_an_image_decodes_to(mode: str, keep_alpha: bool) -> None:
    opaque = Image.fromarray(noise(40, 50, 3)).convert(mode)
    for data in (saved(with_transparency(mode), "PNG"), saved(opaque, "PNG"), saved(opaque, "WEBP")):
        decoded = decode_image(data, MAX_PIXELS, keep_alpha)
        assert decoded_bytes(data, MAX_PIXELS, keep_alpha) == decoded.nbytes


@pytest.mark.parametrize(
    "data",
    [b"", png(257, 256, 8, GREY, b""), png(1, 1, 16, GREY, b"\0" * 3), encode_png(noise(2, 2, 1))[:-12]],
)
def test_a_header_that_is_refused_is_so_before_decoding(data: bytes) -> None:
    with pytest.raises(ImageError) as decoding:
        decode_image(data, MAX_PIXELS)
    with pytest.raises(ImageError) as looking:
        decoded_bytes(data, MAX_PIXELS)
    assert str(looking.value) == str(decoding.value)


class TestDecompressionBombs:
    def assert_refused_without_decoding(self, data: bytes, message: str) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(ImageTooLargeError, match=message):
                decode_image(data, MAX_PIXELS)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 200_000 + len(data)

    def test_jpeg_of_many_scans(self) -> None:
        buffer = BytesIO()
        Image.new("L", (64, 64)).save(buffer, "JPEG", progressive=True)
        whole = buffer.getvalue()
        last = whole.rindex(b"\xff\xda")
        head, scan, end = whole[:last], whole[last:-2], whole[-2:]
        scans = whole.count(b"\xff\xda")
        comment = b"\xff\xfe" + (2 + 4 * MAX_SCANS).to_bytes(2, "big") + b"\xff\xda\x00\x02" * MAX_SCANS
        many = head + comment + scan * (MAX_SCANS - scans + 1)
        assert decode_image(many + end + scan * 9, MAX_PIXELS).shape == (64, 64, 1)
        with pytest.raises(
            ImageTooLargeError, match="4096 pixels in 65 scans or more; the limit is 64"
        ) as told:
            decode_image(many + scan + end, MAX_PIXELS)
        assert (told.value.value, told.value.limit) == (65, 64)

    @pytest.mark.parametrize(
        ("width", "height", "most"), [(4096, 4096, 20), (8192, 4096, 20), (4096, 2048, 40), (1024, 1024, 64)]
    )
    def test_jpeg_of_many_pixels_in_many_scans(self, width: int, height: int, most: int) -> None:
        head = b"\xff\xd8\xff\xc2\0\x0b\x08" + struct.pack(">HH", height, width) + b"\x01\x01\x11\0"
        scan, end = b"\xff\xda\0\x02", b"\xff\xd9"
        assert decoded_bytes(head + scan * most + end, 1 << 25) == width * height
        message = f"{width * height} pixels in {most + 1} scans or more; the limit is {most}$"
        with pytest.raises(ImageTooLargeError, match=message):
            decode_image(head + scan * (most + 1) + end, 1 << 25)

    @pytest.mark.parametrize(("mode", "scans"), [("L", 6), ("RGB", 10), ("CMYK", 18)])
    def test_any_jpeg_may_have_the_scans_that_encoders_write(self, mode: str, scans: int) -> None:
        data = saved(Image.new(mode, (16, 16)), "JPEG", progressive=True)
        assert data.count(b"\xff\xda") == scans <= USUAL_SCANS

    def test_huge_header(self) -> None:
        data = png(60_000, 60_000, 8, RGB, b"\0")
        self.assert_refused_without_decoding(data, "^60000×60000 = 3600000000 pixels; the limit is 65536$")

    def test_highly_compressed_image(self) -> None:
        compressor = zlib.compressobj(9)
        rows = b"".join(compressor.compress(bytes(2501 * 1000)) for _ in range(20)) + compressor.flush()
        whole = png(20_000, 20_000, 1, GREY, b"")
        data = whole.replace(chunk(b"IDAT", zlib.compress(b"", 9)), chunk(b"IDAT", rows))
        assert len(data) < 60_000
        self.assert_refused_without_decoding(data, "^20000×20000 = 400000000 pixels; the limit is 65536$")

    def test_jpeg(self) -> None:
        data = bytearray(saved(Image.new("L", (8, 8)), "JPEG"))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
        self.assert_refused_without_decoding(bytes(data), "^65000×65000 = 4225000000 pixels")

    def test_webp(self) -> None:
        data = saved(Image.new("L", (4096, 4096)), "WEBP", lossless=True)
        assert len(data) < 1000
        self.assert_refused_without_decoding(data, "^4096×4096 = 16777216 pixels; the limit is 65536$")

    def test_webp_canvas_that_pillow_itself_refuses(self) -> None:
        canvas = struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0" * 2
        data = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + canvas
        self.assert_refused_without_decoding(data, "268435456 pixels")

    @pytest.mark.parametrize(("channels", "colours"), [(2, 1), (4, 3)])
    def test_compositing_takes_little_beside_the_image(self, channels: int, colours: int) -> None:
        data = saved(Image.fromarray(np.zeros((1024, 1024, channels), np.uint8)), "PNG")
        tracemalloc.start()
        try:
            assert decode_image(data, 1 << 20).shape == (1024, 1024, colours)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < (colours + 1) << 20

    def test_the_limit_itself_is_allowed(self) -> None:
        data = encode_png(np.zeros((256, 256, 1), np.uint8))
        assert decode_image(data, max_pixels=256 * 256).shape == (256, 256, 1)


class TestEncoding:
    @settings(deadline=None)
    @given(
        st.sampled_from([1, 3]).flatmap(
            lambda c: arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 2, st.just(c)))
        )
    )
    def test_png_gives_every_pixel_back(self, image: np.ndarray) -> None:
        np.testing.assert_array_equal(decode_image(encode_png(image), MAX_PIXELS), image)

    def test_alpha_comes_back_where_it_is_kept(self) -> None:
        image = noise(5, 6, 4)
        np.testing.assert_array_equal(decode_image(encode_png(image), MAX_PIXELS, keep_alpha=True), image)
        opaque = image[..., :3]
        np.testing.assert_array_equal(decode_image(encode_png(opaque), MAX_PIXELS, keep_alpha=True), opaque)

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_webp_gives_every_level_back(self, channels: int) -> None:
        image = noise(9, 7, channels)
        found = decode_image(encode_webp(image), MAX_PIXELS, keep_alpha=True)
        np.testing.assert_array_equal(found, np.broadcast_to(image, found.shape))

    def test_the_smallest_png_gives_every_level_back_in_fewer_bytes(self) -> None:
        image = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64, 1) // 16
        smallest = encode_png(image, is_smallest=True)
        assert len(smallest) < len(encode_png(image))
        np.testing.assert_array_equal(decode_image(smallest, MAX_PIXELS), image)

    def test_two_channels_are_refused(self) -> None:
        with pytest.raises(ImageError, match=r"^an image of 2 channels; 1 .*, 3 .* or 4 .* can be written$"):
            encode_png(np.zeros((4, 4, 2), np.uint8))


class TestChannels:
    def test_grey_is_pillows_luma(self) -> None:
        image = noise(32, 32, 3)
        expected = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        np.testing.assert_array_equal(convert_channels(image, 1), expected)

    def test_primaries(self) -> None:
        primaries = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]], np.uint8)
        assert convert_channels(primaries, 1).ravel().tolist() == [76, 150, 29, 255]

    def test_grey_repeats_to_rgb(self) -> None:
        np.testing.assert_array_equal(
            convert_channels(np.array([[[[7], [9]]]], np.uint8), 3), [[[[7, 7, 7], [9, 9, 9]]]]
        )

    def test_same_channels_are_not_copied(self) -> None:
        images = noise(2, 3, 3, 3)
        assert convert_channels(images, 3) is images

    def test_other_counts_are_refused(self) -> None:
        with pytest.raises(ImageError, match=r"^4 channels cannot become 3"):
            convert_channels(noise(2, 2, 4), 3)


class TestFitting:
    def test_same_shape_is_unchanged(self) -> None:
        image = noise(28, 28, 1)
        for fit in ("resize", "crop", "pad"):
            np.testing.assert_array_equal(fit_image(image, (1, 28, 28), fit), image)

    def test_resize_antialiases(self) -> None:
        # One-pixel stripes average to grey; picking pixels would give all black or all white.
        stripes = np.zeros((64, 64, 1), np.uint8)
        stripes[:, ::2] = 255
        middle = fit_image(stripes, (1, 8, 8), "resize")[:, 1:-1]
        assert middle.min() >= 126
        assert middle.max() <= 129

    def test_resize_stretches(self) -> None:
        image = np.zeros((8, 16, 1), np.uint8)
        image[:, 8:] = 200
        fitted = fit_image(image, (1, 8, 8), "resize")
        assert fitted[0, [0, 7], 0].tolist() == [0, 200]

    def test_crop_keeps_the_centre(self) -> None:
        image = np.concatenate([np.full((8, 4, 1), level, np.uint8) for level in (10, 20, 20, 30)], axis=1)
        np.testing.assert_array_equal(fit_image(image, (1, 8, 8), "crop"), np.full((8, 8, 1), 20))

    def test_pad_centres_on_black(self) -> None:
        fitted = fit_image(np.full((8, 16, 1), 50, np.uint8), (1, 8, 8), "pad")
        assert fitted[:, 0, 0].tolist() == [0, 0, 50, 50, 50, 50, 0, 0]

    @pytest.mark.parametrize(("height", "width"), [(1, 1000), (1000, 1), (1, 1)])
    @pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
    def test_thin_lines_fit(self, height: int, width: int, fit: str) -> None:
        fitted = fit_image(np.full((height, width, 3), 9, np.uint8), (3, 8, 12), fit)  # type: ignore[arg-type]
        assert fitted.shape == (8, 12, 3)
        assert fitted.max() == 9

    def test_channels_follow_the_model(self) -> None:
        red = np.zeros((4, 4, 3), np.uint8)
        red[..., 0] = 255
        np.testing.assert_array_equal(fit_image(red, (1, 8, 8), "resize"), np.full((8, 8, 1), 76))
        np.testing.assert_array_equal(
            fit_image(np.full((4, 4, 1), 3, np.uint8), (3, 8, 8), "pad"), np.full((8, 8, 3), 3)
        )


class TestContactSheet:
    def test_one_image_is_itself(self) -> None:
        image = noise(1, 3, 2, 3)
        np.testing.assert_array_equal(contact_sheet(image), image[0])

    def test_rows_of_a_near_square_grid_with_gaps(self) -> None:
        ones = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1)
        assert contact_sheet(ones)[..., 0].tolist() == [[1, 0, 2, 0, 3], [0, 0, 0, 0, 0], [4, 0, 5, 0, 0]]

    def test_given_columns(self) -> None:
        ones = np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1, 1)
        assert contact_sheet(ones, columns=2)[..., 0].tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 0]]
        assert contact_sheet(ones, columns=9)[..., 0].tolist() == [[1, 0, 2, 0, 3]]

    def test_tiles_stay_whole(self) -> None:
        images = noise(4, 3, 2, 3)
        sheet = contact_sheet(images)
        assert sheet.shape == (7, 5, 3)
        np.testing.assert_array_equal(sheet[4:, 3:], images[3])

    def test_no_images(self) -> None:
        with pytest.raises(ImageError, match=r"^a contact sheet of 0 images"):
            contact_sheet(noise(0, 2, 2, 1))


def test_an_extreme_side_is_refused_before_decoding() -> None:
    png = encode_png(np.zeros((1, MAX_SIDE + 1, 1), np.uint8))
    with pytest.raises(ImageTooLargeError, match="16385×1: a side of 16385; the limit is 16384"):
        decode_image(png, 1 << 24)


@pytest.mark.parametrize("is_before", [True, False])
def test_an_orientation_is_found_wherever_a_png_has_it(is_before: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = BytesIO()
    Image.new("L", (4, 3), 9).save(buffer, "PNG")
    plain = buffer.getvalue()
    content = exif.tobytes()[6:]
    chunk = b"eXIf" + content
    chunk = len(content).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    place = plain.index(b"IDAT" if is_before else b"IEND") - 4
    turned = decode_image(plain[:place] + chunk + plain[place:], 100)
    assert decode_image(plain, 100).shape == (3, 4, 1)
    assert turned.shape == (4, 3, 1)


def test_an_image_that_there_is_no_memory_for_is_not_said_to_be_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(image: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", no_memory)
    with pytest.raises(MemoryError):
        decode_image(encode_png(np.zeros((2, 2, 1), np.uint8)), 4)
