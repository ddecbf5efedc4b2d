"""More picture files and what Pillow makes of them: test/golden/pictures/ (reference/images.py made the first ones).

Decoded values are those of transformers' `load_image`, through which a processor of the PIL kind reads the path of a
picture: turned upright as the EXIF orientation says, then `convert("RGB")`.
"""

import base64
import json
import pathlib
import struct
import zlib

import numpy as np
import PIL
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

assert PIL.__version__ == "13.0.0", "the values of one version are stored: Pillow 13.0.0"

OUT = pathlib.Path("test/golden/pictures")
WIDTH, HEIGHT = 11, 7


def pattern(channels: int, bits: int = 8) -> np.ndarray:
    """[HEIGHT, WIDTH, channels] of noise that is the same every time."""
    values = np.arange(HEIGHT * WIDTH * channels, dtype=np.int64) * 7919 % 104729 * 31
    return (values % (1 << bits)).reshape(HEIGHT, WIDTH, channels)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed(row: np.ndarray, bits: int) -> bytes:
    """One row of samples as PNG stores it."""
    flat = row.reshape(-1)
    if bits == 16:
        return flat.astype(">u2").tobytes()
    digits = "".join(format(int(value), f"0{bits}b") for value in flat)
    digits += "0" * (-len(digits) % 8)
    return bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))


def write_png(name: str, values: np.ndarray, bits: int, colour: int, extra: bytes = b"", interlaced: bool = False) -> None:
    """PNGs of kinds that Pillow does not write; Adam7 if interlaced."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    data = b""
    for x, y, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        part = values[y::dy, x::dx]
        if part.size:
            data += b"".join(b"\0" + packed(row, bits) for row in part)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, int(interlaced))
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    (OUT / name).write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_files() -> None:
    rgb = Image.fromarray(pattern(3).astype(np.uint8))
    for bits in (1, 2, 4, 8):
        entries = 1 << bits
        colours = (np.arange(entries * 3) * 67 % 256).astype(np.uint8).tobytes()
        alphas = (np.arange(entries) * 91 % 256).astype(np.uint8).tobytes()
        write_png(f"palette{bits}.png", pattern(1, bits), bits, 3, chunk(b"PLTE", colours))
        write_png(f"palette{bits}-alpha.png", pattern(1, bits), bits, 3, chunk(b"PLTE", colours) + chunk(b"tRNS", alphas))
    for bits in (1, 2, 4):
        write_png(f"grey{bits}.png", pattern(1, bits), bits, 0)
    write_png("grey-key.png", pattern(1), 8, 0, chunk(b"tRNS", struct.pack(">H", int(pattern(1)[0, 0, 0]))))
    write_png("grey16-interlaced.png", pattern(1, 16), 16, 0, interlaced=True)
    write_png("grey-alpha16.png", pattern(2, 16), 16, 4)
    write_png("rgba16.png", pattern(4, 16), 16, 6)
    write_png("rgb-key.png", pattern(3), 8, 2, chunk(b"tRNS", struct.pack(">HHH", *map(int, pattern(3)[0, 0]))))
    write_png("rgb-interlaced.png", pattern(3), 8, 2, interlaced=True)
    write_png("gamma.png", pattern(3), 8, 2, chunk(b"gAMA", struct.pack(">I", 100000)))
    cmyk = Image.fromarray(pattern(4).astype(np.uint8), "CMYK")
    cmyk.save(OUT / "cmyk-progressive.jpg", quality=95, progressive=True)
    rgb.save(OUT / "rgb-444.jpg", quality=95, subsampling="4:4:4", keep_rgb=True)
    rgb.save(OUT / "422.jpg", quality=85, subsampling="4:2:2")
    rgb.convert("L").save(OUT / "grey-progressive.jpg", progressive=True)
    rgb.save(OUT / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(pattern(1, 16)[..., 0].astype(np.uint16)).save(OUT / "grey16.tif")
    rgb.convert("1").save(OUT / "one-bit.tif")
    rgb.quantize(7).save(OUT / "palette.tif")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        rgb.save(OUT / f"orientation-{orientation}.jpg", quality=90, exif=exif)
        if orientation in (3, 6, 7):
            rgb.save(OUT / f"orientation-{orientation}.png", exif=exif)
            rgb.save(OUT / f"orientation-{orientation}.webp", lossless=True, exif=exif)
            rgb.save(OUT / f"orientation-{orientation}.tif", exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 8
    cmyk.save(OUT / "orientation-8-cmyk.jpg", quality=95, exif=exif)
    exif[0x0112] = 9  # not a value that means anything
    rgb.save(OUT / "orientation-9.jpg", quality=90, exif=exif)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for path in OUT.iterdir():
        path.unlink()
    write_files()
    golden = {}
    processor = BlipImageProcessorPil(size={"height": HEIGHT, "width": WIDTH}, do_normalize=False, do_rescale=False)
    for path in sorted(OUT.iterdir()):
        array = np.array(load_image(str(path)))
        if array.shape == (HEIGHT, WIDTH, 3):  # the processor reads paths in this way
            processed = processor(processor.fetch_images([str(path)]), return_tensors="np")["pixel_values"][0]
            assert np.array_equal(processed.transpose(1, 2, 0), array), path
        golden[path.name] = {
            "width": array.shape[1],
            "height": array.shape[0],
            "base64": base64.b64encode(array.tobytes()).decode(),
        }
    (OUT / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
