"""Pictures of any depth are as bright as they are; bad files get one line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from deep_learning_recipes import UsageError
from deep_learning_recipes.data.picture_files import read_picture

SIZE = 16, 24
RAMP = np.tile(np.linspace(0, 1, SIZE[1]), (SIZE[0], 1))


def read(file, channels=3):
    return read_picture(file, SIZE, channels)


DEPTHS = {
    "8 bits": (255, "uint8", "png"),
    "16 bits, PNG": (65535, "uint16", "png"),
    "16 bits, TIFF": (65535, "uint16", "tif"),
    "12 bits in 16, PNG": (4095, "uint16", "png"),
    "12 bits in 16, TIFF": (4095, "uint16", "tif"),
    "bytes in 16": (255, "uint16", "tif"),
    "bytes in 32": (255, "int32", "tif"),
    "16 bits in 32": (65535, "int32", "tif"),
    "31 bits": (2**31 - 1, "int32", "tif"),
    "32 bits": (2**32 - 1, "uint32", "tif"),
    "fractions": (1, "float32", "tif"),
    "bytes as fractions": (255, "float32", "tif"),
    "16 bits as fractions": (65535, "float32", "tif"),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_ramp_of_any_depth_is_that_ramp(depth, channels, tmp_path):
    full, dtype, kind = DEPTHS[depth]
    pixels = (RAMP * full).astype(dtype)
    file = tmp_path / f"ramp.{kind}"
    if dtype == "uint32":  # Pillow writes none
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(file, pixels)
    else:
        Image.fromarray(pixels).save(file)
    found = read(file, channels)
    assert found.shape == (*SIZE, channels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0], RAMP, atol=1 / 255)
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], channels, axis=-1))


COLORS = {
    "fractions": (1, "float32"),
    "half fractions": (1, "float16"),
    "doubles": (1, "float64"),
    "16 bits": (65535, "uint16"),
    "12 bits in 16": (4095, "uint16"),
    "signed 16 bits": (32767, "int16"),
    "32 bits": (2**32 - 1, "uint32"),
}


@pytest.mark.parametrize("depth", COLORS)
@pytest.mark.parametrize("planes", ["gray", "rgb", "rgba", "rgb apart"])
def test_deep_colors_are_those_colors(depth, planes, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    full, dtype = COLORS[depth]
    colors = np.stack([RAMP, RAMP[:, ::-1], RAMP / 2], axis=-1)
    if planes == "gray":
        tifffile.imwrite(tmp_path / "ramp.tif", (RAMP * full).astype(dtype))
        colors = np.repeat(RAMP[..., None], 3, axis=-1)
    elif planes == "rgba":
        mixed = np.concatenate([colors, np.full((*SIZE, 1), 0.5)], axis=-1)
        mixed[0, 0, 3] = 1
        pixels = (mixed * full).astype(dtype)
        tifffile.imwrite(
            tmp_path / "ramp.tif",
            pixels,
            photometric="rgb",
            extrasamples=["unassalpha"],
        )
        colors = 0.5 * colors + 0.5
        colors[0, 0] = 0, 1, 0
    else:
        pixels = (colors * full).astype(dtype)
        apart = {"planarconfig": "separate"} if "apart" in planes else {}
        pixels = np.moveaxis(pixels, -1, 0) if apart else pixels
        tifffile.imwrite(tmp_path / "ramp.tif", pixels, photometric="rgb", **apart)
    np.testing.assert_allclose(read(tmp_path / "ramp.tif"), colors, atol=2e-3)


def test_deep_colors_that_only_pillow_can_unpack(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    pixels = (65535 * np.stack([RAMP] * 3, axis=-1)).astype("uint16")
    tifffile.imwrite(tmp_path / "ramp.tif", pixels, photometric="rgb")

    def unable(*_):
        raise ValueError("requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", unable)
    found = read(tmp_path / "ramp.tif")
    np.testing.assert_allclose(found[..., 0], RAMP, atol=1 / 255)


def packed_12_bits(pixels):
    """A TIFF of 12 bits a pixel, three bytes for two of them, by hand."""
    even, odd = pixels.reshape(-1, 2).T.astype(int)
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=1)
    data = packed.astype("uint8").tobytes()
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data)}
    entries = [struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)]
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("brightest", [1, 0.05])
def test_twelve_bits_that_the_file_tells_of(brightest, tmp_path):
    (tmp_path / "ramp.tif").write_bytes(packed_12_bits(RAMP * brightest * 4095))
    found = read(tmp_path / "ramp.tif")
    np.testing.assert_allclose(found[..., 0], RAMP * brightest, atol=1e-3)


def test_a_deep_picture_is_turned_cut_and_resized(tmp_path):
    pixels = np.zeros((40, 80), "uint16")
    pixels[:, 40:] = 50000
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = read_picture(tmp_path / "wide.png", (10, 10))
    np.testing.assert_allclose(found[:, :4], 0, atol=0.05)
    np.testing.assert_allclose(found[:, 6:], 50000 / 65535, atol=0.05)
    assert 0 <= found.min() <= found.max() <= 1
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: the bright half is below
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = read_picture(tmp_path / "turned.png", (20, 10))
    assert turned[-1].mean() == pytest.approx(50000 / 65535, abs=0.01)
    assert turned[0].mean() == pytest.approx(0, abs=0.01)


def logo(mode):
    """Black on the left, nothing on the right."""
    pixels = np.zeros((*SIZE, 4), "uint8")
    pixels[:, : SIZE[1] // 2, 3] = 255
    image = Image.fromarray(pixels)
    if mode == "LA":
        return image.convert("LA"), {}
    if mode in ("P", "L", "RGB"):  # one color or number stands for nothing
        bare = Image.fromarray(255 - pixels[..., 3])
        if mode == "P":
            return bare.quantize(2), {
                "transparency": bare.quantize(2).getpixel((23, 0))
            }
        color = 255 if mode == "L" else (255, 255, 255)
        green = Image.merge("RGB", [bare] * 3) if mode == "RGB" else bare
        return green, {"transparency": color}
    return image, {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_shows_white(mode, channels, tmp_path):
    image, options = logo(mode)
    image.save(tmp_path / "logo.png", **options)
    found = read(tmp_path / "logo.png", channels)
    np.testing.assert_array_equal(found[:, :10], 0)
    np.testing.assert_array_equal(found[:, 14:], 1)


def test_half_transparent_colors_are_mixed_with_white(tmp_path):
    Image.new("RGBA", SIZE[::-1], (200, 0, 100, 128)).save(tmp_path / "half.webp")
    Image.new("RGBA", SIZE[::-1], (200, 0, 100, 128)).save(tmp_path / "half.png")
    mixed = (np.array([200, 0, 100]) * 128 + 255 * 127) / 255**2
    found = read(tmp_path / "half.png")
    np.testing.assert_allclose(found, np.broadcast_to(mixed, found.shape), atol=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_stay_as_they_were(mode, tmp_path):
    image = Image.fromarray((255 * RAMP).astype("uint8")).convert(mode)
    kind = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    image.save(tmp_path / f"ramp.{kind}")
    found = read(tmp_path / f"ramp.{kind}")
    assert found.mean() == pytest.approx(0.5, abs=0.05)


def png(*chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        check = zlib.crc32(kind + data)
        parts.append(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
        )
    return b"".join(parts)


def test_a_bomb_gets_one_line(tmp_path):
    """196 megapixels of nothing, a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 14_000, 14_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    bomb = png((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(UsageError, match="more than 178 megapixels; make it smaller"):
        read(tmp_path / "bomb.png")


BAD = {
    "nan.tif": (np.full(SIZE, np.nan, "float32"), "no numbers"),
    "infinite.tif": (np.full(SIZE, np.inf, "float32"), "no numbers"),
    "signed.tif": ((2 * RAMP - 1).astype("float32"), "from -1 to 1"),
    "negative.tif": ((-1000 * RAMP).astype("int16"), "from -1000 to 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_pixels_that_are_no_brightness_get_one_line(name, tmp_path):
    pixels, message = BAD[name]
    if pixels.dtype == np.int16:
        pytest.importorskip("tifffile").imwrite(tmp_path / name, pixels)
    else:
        Image.fromarray(pixels).save(tmp_path / name)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / name)


def hostile_files(folder):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2**21, zip=True)
    small = Image.fromarray((255 * RAMP).astype("uint8"))
    small.save(folder / "text.png", pnginfo=text)
    small.save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "junk.png").write_bytes(whole[:40] + bytes(range(256)))
    (folder / "words.jpg").write_text("no picture")
    (folder / "empty.gif").write_bytes(b"")
    (folder / "header.gif").write_bytes(b"GIF89a")
    (folder / "header.bmp").write_bytes(b"BM" + bytes(30))
    (folder / "tags.tif").write_bytes(b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
    (folder / "folder.png").mkdir()
    return [each.name for each in folder.iterdir() if each.name != "whole.png"]


def test_files_that_are_no_pictures_get_one_line(tmp_path):
    for name in hostile_files(tmp_path):
        with pytest.raises(UsageError, match=rf"{name}: .*cannot read it") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_without_a_size_a_picture_is_as_large_as_it_is(mode, size, tmp_path):
    height, width = size
    kind = "uint16" if mode == "I;16" else "uint8"
    values = np.arange(height * width, dtype=kind).reshape(size) * 3
    picture = Image.fromarray(values)
    if mode != "I;16":
        picture = picture.convert(mode)
    picture.save(tmp_path / "it.png")
    found = read_picture(tmp_path / "it.png", None)
    assert found.shape == (height, width, 3)
    np.testing.assert_allclose(
        found, np.repeat(values[..., None] / 255, 3, -1), atol=1e-6
    )
