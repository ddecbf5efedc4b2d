"""Golden pictures: what Pillow and transformers' PIL image processor make of small pictures.

Run from the repository root: python reference/images.py
Writes the picture files and golden.json (decoded values, resized values and processor outputs, as base64 or sha256).
"""

import base64
import hashlib
import json
import pathlib

import numpy as np
import PIL
from PIL import Image, ImageCms
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

assert PIL.__version__ == "13.0.0", "the values of one version are stored: Pillow 13.0.0"

OUT = pathlib.Path("test/golden/images")

# from (width, height), to (width, height): down, up, one axis only, equal, extreme
RESIZES = [
    ((61, 47), (24, 24)),
    ((61, 47), (224, 224)),
    ((300, 200), (96, 96)),
    ((200, 301), (224, 224)),
    ((640, 480), (224, 224)),
    ((97, 96), (96, 96)),
    ((96, 40), (96, 96)),
    ((40, 96), (96, 96)),
    ((96, 96), (96, 96)),
    ((1, 1), (7, 5)),
    ((3, 500), (64, 3)),
    ((1000, 2), (5, 9)),
    ((224, 224), (364, 364)),
    ((33, 17), (1, 1)),
]

PROCESSORS = {
    "blip2": {"size": {"height": 224, "width": 224}},
    "square": {"size": {"height": 96, "width": 96}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.125]},
    "oblong": {"size": {"height": 30, "width": 50}},
    "unscaled": {"size": {"height": 32, "width": 32}, "do_rescale": False, "image_mean": [127.5, 120, 110.25]},
    "unnormalised": {"size": {"height": 32, "width": 32}, "do_normalize": False},
    "unresized": {"do_resize": False},
}


def pattern(width, height):
    """Smooth parts, edges and noise; test/images/pattern.ts computes the same."""
    x = np.arange(width, dtype=np.int64)[None, :, None]
    y = np.arange(height, dtype=np.int64)[:, None, None]
    c = np.arange(3, dtype=np.int64)[None, None, :]
    wave = (x * x * 3 + y * y * 5 + x * y * (c + 1)) >> 4
    noise = ((x * 7919 + y * 104729 + c * 1299709) >> 3) * 31
    edge = ((x >> 3) + (y >> 2) + c) % 3
    return (np.where(edge == 0, wave, np.where(edge == 1, noise, 255 * ((x + y) & 1))) & 255).astype(np.uint8)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def write_files():
    rgb = Image.fromarray(pattern(21, 13))
    grey = rgb.convert("L")
    alpha = Image.fromarray(pattern(21, 13)[:, ::-1, 0].copy())
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    palette = rgb.quantize(16)
    wide = (np.arange(21 * 13, dtype=np.uint32).reshape(13, 21) * 241 % 65536).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    profile = profile[:24] + bytes(12) + profile[36:]  # its date would change the file from run to run
    rgb.save(OUT / "rgb.png")
    rgba.save(OUT / "rgba.png")
    grey.save(OUT / "grey.png")
    Image.merge("LA", (grey, alpha)).save(OUT / "grey-alpha.png")
    grey.convert("1").save(OUT / "one-bit.png")
    palette.save(OUT / "palette.png")
    palette.save(OUT / "palette-transparent.png", transparency=3)
    palette.save(OUT / "palette.gif")
    rgb.save(OUT / "two-frames.gif", save_all=True, append_images=[grey.convert("RGB")])
    Image.fromarray(wide).save(OUT / "grey16.png")
    rgb.save(OUT / "rgb.jpg", quality=90)
    rgb.save(OUT / "subsampled.jpg", quality=70, subsampling="4:2:0")
    rgb.save(OUT / "progressive.jpg", quality=80, progressive=True)
    rgb.save(OUT / "rotated.jpg", quality=90, exif=exif)
    rgb.save(OUT / "profile.jpg", quality=90, icc_profile=profile)
    grey.save(OUT / "grey.jpg", quality=90)
    rgb.convert("CMYK").save(OUT / "cmyk.jpg", quality=95)
    Image.fromarray(np.dstack([pattern(21, 13), pattern(21, 13)[::-1, :, 1]]), "CMYK").save(OUT / "cmyk.tif")
    rgb.save(OUT / "rgb.tif")
    rgb.save(OUT / "lossless.webp", lossless=True)
    rgba.save(OUT / "lossless-alpha.webp", lossless=True, exact=True)
    rgb.save(OUT / "lossy.webp", quality=80)
    write_rgb16()
    Image.fromarray(pattern(120, 80)).save(OUT / "photo.jpg", quality=85)


def write_rgb16():
    """Pillow cannot write 16-bit RGB, so the PNG is put together here."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    high = pattern(21, 13).astype(np.uint16)
    values = (high << 8 | high[::-1, ::-1]).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 21, 13, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (OUT / "rgb16.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    write_files()
    golden = {"decoded": {}, "resized": [], "processed": {}}
    for path in sorted(OUT.iterdir()):
        if path.suffix == ".json":  # resized-13.json is of picture_kinds.py
            continue
        array = np.array(Image.open(path).convert("RGB"))
        small = array.size < 2000
        golden["decoded"][path.name] = {
            "width": array.shape[1],
            "height": array.shape[0],
            **({"base64": base64.b64encode(array.tobytes()).decode()} if small else {"sha256": digest(array)}),
        }
    for (width, height), size in RESIZES:
        image = Image.fromarray(pattern(width, height)).resize(size, Image.Resampling.BICUBIC)
        golden["resized"].append({"from": [width, height], "to": size, "sha256": digest(np.array(image))})
    pictures = [Image.fromarray(pattern(61, 47)), Image.fromarray(pattern(300, 200))]
    for name, config in PROCESSORS.items():
        processor = BlipImageProcessorPil(**config)
        batch = pictures if config.get("do_resize", True) else pictures[:1]
        values = processor(batch, return_tensors="np")["pixel_values"].astype(np.float32)
        stored = {key: value for key, value in processor.to_dict().items() if value is not None}
        golden["processed"][name] = {
            "config": stored,
            "dims": values.shape,
            "sha256": digest(values),
            "first": values.reshape(-1)[:5].tolist(),
        }
    (OUT / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
