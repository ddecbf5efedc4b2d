"""Kinds of picture files that few programs write, and what transformers' `load_image` makes of them with Pillow 13.

Run from the repository root: python reference/picture_kinds.py
Writes test/golden/picture-kinds/golden.json: each file in base64, and its width, height and RGB values, or that Pillow refuses it.
Writes test/golden/picture-cases/golden.json the same for the files that lie there, without the files themselves.
Writes test/golden/images/resized-13.json: tall pictures whose vertical axis Pillow 13 resizes first.
"""

import base64
import io
import json
import pathlib
import struct
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin
from transformers.image_utils import load_image

assert PIL.__version__ == "13.0.0", "the values of one version are stored: Pillow 13.0.0"
warnings.simplefilter("ignore")

KINDS = pathlib.Path("test/golden/picture-kinds")
CASES = pathlib.Path("test/golden/picture-cases")
RESIZED = pathlib.Path("test/golden/images/resized-13.json")
W, H = 7, 5

files: dict[str, bytes] = {}


def noise(seed: int, count: int, most: int = 255) -> np.ndarray:
    """Whole numbers from 0 to `most`, the same every time."""
    values = (np.arange(count, dtype=np.int64) + 1) * (7919 + 2 * seed) % 104729 * 31
    return values % (most + 1)


def noisy_bytes(seed: int, count: int) -> bytes:
    return noise(seed, count).astype(np.uint8).tobytes()


def smooth(width: int, height: int, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 7 + y * 3 * (c + 1)) % 256 for c in range(channels)], -1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


RGB = Image.fromarray(noise(1, W * H * 3).astype(np.uint8).reshape(H, W, 3))
FLAT = Image.fromarray(np.kron(noise(2, 4 * 3).astype(np.uint8).reshape(2, 2, 3), np.ones((8, 12, 1), np.uint8)))


# Orientation


def exif(orientation: int, big_endian: bool = False, kind: int = 3) -> bytes:
    order = ">" if big_endian else "<"
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "IH", 8, 1)
    return head + struct.pack(order + "HHI", 0x112, kind, 1) + value + bytes(4)


def xmp(orientation: int, element: bool = False) -> bytes:
    attribute = "" if element else f' tiff:Orientation="{orientation}"'
    inside = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else ""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"<rdf:Description{attribute}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def raw_profile(profile: bytes) -> bytes:
    """As ImageMagick writes EXIF into a text."""
    digits = profile.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\nexif\n{len(profile):8}\n{lines}\n".encode()


# PNG


def chunk(kind: bytes, body: bytes, wrong: bool = False) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def text(kind: str, key: bytes, value: bytes) -> bytes:
    return {
        "tEXt": lambda: chunk(b"tEXt", key + b"\0" + value),
        "zTXt": lambda: chunk(b"zTXt", key + b"\0\0" + zlib.compress(value)),
        "iTXt": lambda: chunk(b"iTXt", key + b"\0\0\0\0\0" + value),
        "packed iTXt": lambda: chunk(b"iTXt", key + b"\0\1\0en\0k\0" + zlib.compress(value)),
    }[kind]()


def png(rows: bytes, bits: int = 8, colour: int = 2, before: bytes = b"", after: bytes = b"", **damage) -> bytes:
    """PNG of W x H; `data` for other pixel data than `rows` packed, `wrong` for a wrong checksum of them."""
    header = struct.pack(">IIBBBBB", W, H, bits, colour, 0, 0, 0)
    data = damage.get("data") or zlib.compress(rows)
    signature = b"\x89PNG\r\n\x1a\n"
    pixels = chunk(b"IDAT", data, damage.get("wrong", False))
    return signature + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def filtered(bits: int, channels: int) -> bytes:
    size = (W * bits * channels + 7) // 8
    return b"".join(bytes([y % 5]) + noisy_bytes(y + bits, size) for y in range(H))


def write_png() -> None:
    rgb = filtered(8, 3)
    profile, packet = b"Raw profile type exif", b"XML:com.adobe.xmp"
    for orientation in range(1, 9):
        kind = ["tEXt", "zTXt", "iTXt", "packed iTXt"][orientation % 4]
        files[f"text-exif-{orientation}.png"] = png(rgb, before=text(kind, profile, raw_profile(b"Exif\0\0" + exif(orientation))))
        files[f"xmp-{orientation}.png"] = png(rgb, before=text(kind, packet, xmp(orientation, orientation > 4)))
        files[f"exif-behind-{orientation}.png"] = png(rgb, after=chunk(b"eXIf", exif(orientation, True)))
    both = text("iTXt", packet, xmp(6))
    for value in (1, 3, 9):
        files[f"exif-{value}-xmp-6.png"] = png(rgb, before=both + chunk(b"eXIf", exif(value)))
        files[f"text-exif-{value}-xmp-6.png"] = png(rgb, before=both + text("zTXt", profile, raw_profile(exif(value))))
    files["exif-3-text-exif-8.png"] = png(rgb, before=text("zTXt", profile, raw_profile(exif(8))) + chunk(b"eXIf", exif(3)))
    files["text-app1-6.png"] = png(rgb, before=text("zTXt", b"Raw profile type APP1", raw_profile(exif(6))))
    files["exif-long-6.png"] = png(rgb, before=chunk(b"eXIf", exif(6, kind=4)))
    files["exif-byte-6-xmp-3.png"] = png(rgb, before=text("iTXt", packet, xmp(3)) + chunk(b"eXIf", exif(6, kind=1)))

    files["wrong-checksum.png"] = png(rgb, wrong=True)
    files["wrong-checksum-behind.png"] = png(rgb, after=chunk(b"tEXt", b"a\0b", True))
    packed = zlib.compress(rgb)
    files["no-adler.png"] = png(rgb, data=packed[:-4])
    files["wrong-adler.png"] = png(rgb, data=packed[:-4] + b"\1\2\3\4")
    files["behind-the-stream.png"] = png(rgb, data=packed + b"abc")
    files["rows-too-many.png"] = png(rgb, data=zlib.compress(rgb + rgb))
    for cut in (1, 12, 16, 20, 40):
        files[f"cut-{cut}.png"] = png(rgb)[:-cut]
    files["unknown-filter.png"] = png(b"\7" + rgb[1:])
    for bits in (1, 2, 4, 8, 16):
        key = struct.pack(">H", int.from_bytes(noisy_bytes(bits, 1)) & ((1 << bits) - 1))
        files[f"grey{bits}-key.png"] = png(filtered(bits, 1), bits, 0, chunk(b"tRNS", key))
    files["rgb16-key.png"] = png(filtered(16, 3), 16, 2, chunk(b"tRNS", bytes(6)))
    files["short-palette.png"] = png(filtered(8, 1), 8, 3, chunk(b"PLTE", noisy_bytes(5, 90)) + chunk(b"tRNS", b"\0\xff\x80"))


def write_others_with_orientation() -> None:
    lossless = {"lossless": True}
    for orientation in range(1, 9):
        element = orientation % 2 == 0
        files[f"xmp-{orientation}.jpg"] = saved(RGB, "JPEG", xmp=xmp(orientation, element))
        files[f"xmp-{orientation}.webp"] = saved(RGB, "WEBP", xmp=xmp(orientation, element), **lossless)
        files[f"xmp-{orientation}.avif"] = saved(FLAT, "AVIF", xmp=xmp(orientation, element), subsampling="4:4:4", quality=100)
        files[f"exif-{orientation}.avif"] = saved(FLAT, "AVIF", exif=exif(orientation), subsampling="4:4:4", quality=100)
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = xmp(orientation)
        tags.tagtype[700] = 1
        files[f"xmp-{orientation}.tif"] = saved(RGB, "TIFF", tiffinfo=tags)
        tags[274] = 9 - orientation
        files[f"exif-{9 - orientation}-xmp-{orientation}.tif"] = saved(RGB, "TIFF", tiffinfo=tags, compression="tiff_lzw")
    for value in (1, 3, 9):
        head = b"Exif\0\0" + exif(value)
        files[f"exif-{value}-xmp-6.jpg"] = saved(RGB, "JPEG", xmp=xmp(6), exif=head)
        files[f"exif-{value}-xmp-6.webp"] = saved(RGB, "WEBP", xmp=xmp(6), exif=head, **lossless)
        files[f"exif-{value}-xmp-6.avif"] = saved(FLAT, "AVIF", xmp=xmp(6), exif=head, subsampling="4:4:4", quality=100)


# JPEG and WebP


def write_jpeg() -> None:
    inks = Image.fromarray(np.dstack([smooth(21, 13), smooth(21, 13)[::-1, :, :1]]), "CMYK")
    cmyk = saved(inks, "JPEG", quality=92)
    at = cmyk.find(b"\xff\xee")
    end = at + 2 + struct.unpack(">H", cmyk[at + 2 : at + 4])[0]
    files["cmyk-without-adobe.jpg"] = cmyk[:at] + cmyk[end:]
    files["ycck.jpg"] = cmyk[: at + 15] + b"\2" + cmyk[at + 16 :]
    whole = saved(Image.fromarray(smooth(21, 13)), "JPEG")
    files["filled.jpg"] = whole[:2] + b"\xff\xff\xff" + whole[2:]
    for cut in (1, 2, 3, 40):
        files[f"cut-{cut}.jpg"] = whole[:-cut]


def write_webp() -> None:
    alpha = Image.fromarray(np.dstack([noise(3, W * H * 4).astype(np.uint8).reshape(H, W, 4)]), "RGBA")
    pixels = saved(alpha, "WEBP", lossless=True, exact=True)
    frame = b"".join(struct.pack("<I", n)[:3] for n in (2, 1, W - 1, H - 1, 100)) + b"\0" + pixels[12:]
    chunks = [(b"VP8X", b"\x12\0\0\0" + struct.pack("<I", 15)[:3] + struct.pack("<I", 11)[:3]), (b"ANIM", b"\xff\x80\x40\xff\0\0")]
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in [*chunks, (b"ANMF", frame), (b"ANMF", frame)]
    )
    files["part-of-canvas.webp"] = b"RIFF" + struct.pack("<I", len(body)) + body


# GIF


def gif_codes(indices: bytes, bits: int) -> bytes:
    """LZW, as GIF packs it, in blocks."""
    clear, end = 1 << bits, (1 << bits) + 1
    table, width, following = {}, bits + 1, end + 1
    number, length, packed = 0, 0, bytearray()

    def emit(code: int) -> None:
        nonlocal number, length
        number |= code << length
        length += width
        while length >= 8:
            packed.append(number & 255)
            number >>= 8
            length -= 8

    def code_of(string: bytes) -> int:
        return string[0] if len(string) == 1 else table[string]

    emit(clear)
    known = b""
    for index in indices:
        longer = known + bytes([index])
        if len(longer) == 1 or longer in table:
            known = longer
            continue
        emit(code_of(known))
        if following < 4096:
            table[longer] = following
            following += 1
            if following > 1 << width and width < 12:
                width += 1
        known = bytes([index])
    emit(code_of(known))
    emit(end)
    if length:
        packed.append(number & 255)
    blocks = [bytes(packed[i : i + 255]) for i in range(0, len(packed), 255)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif(frame=(0, 0, W, H), bits=3, shared=None, own=None, clear=None, interlaced=False, canvas=(W, H), background=2) -> bytes:
    x, y, width, height = frame
    size = lambda colours: (len(colours) // 3).bit_length() - 2
    out = b"GIF89a" + struct.pack("<HH", *canvas) + bytes([0x80 | size(shared) if shared else 0, background, 0]) + (shared or b"")
    if clear is not None:
        out += b"!\xf9\4" + bytes([1, 0, 0, clear, 0])
    out += b"," + struct.pack("<HHHH", x, y, width, height)
    out += bytes([(0x40 if interlaced else 0) | (0x80 | size(own) if own else 0)]) + (own or b"")
    indices = noise(bits, width * height, (1 << bits) - 1).astype(np.uint8).tobytes()
    return out + bytes([max(2, bits)]) + gif_codes(indices, max(2, bits)) + b";"


def write_gif() -> None:
    shared, own = noisy_bytes(1, 24), noisy_bytes(2, 24)
    ramp = bytes(value for index in range(8) for value in (index, index, index))
    files["transparent.gif"] = gif(shared=shared, clear=5)
    files["part.gif"] = gif((1, 2, 4, 2), shared=shared)
    files["part-transparent.gif"] = gif((1, 2, 4, 2), shared=shared, clear=5)
    files["part-own-palette.gif"] = gif((1, 2, 4, 2), shared=shared, own=own, clear=6)
    files["part-interlaced.gif"] = gif((1, 1, 5, 4), shared=shared, clear=3, interlaced=True)
    files["beyond-canvas.gif"] = gif((4, 3, W, H), shared=shared, clear=1)
    files["transparent-beyond-palette.gif"] = gif((1, 2, 4, 2), shared=shared, clear=200)
    files["index-beyond-palette.gif"] = gif(bits=8, shared=shared)
    files["no-palette.gif"] = gif((1, 2, 4, 2), bits=8, clear=77)
    files["grey-palette.gif"] = gif((1, 2, 4, 2), shared=ramp, clear=4)
    files["grey-palette-beside-colours.gif"] = gif((1, 2, 4, 2), shared=shared, own=ramp, clear=4)
    files["one-bit.gif"] = gif(bits=1, shared=shared[:6], clear=1)
    files["full-table.gif"] = gif((0, 0, 90, 80), bits=8, shared=noisy_bytes(1, 768), canvas=(90, 80))
    for cut in (2, 5, 12):
        files[f"cut-{cut}.gif"] = files["transparent.gif"][:-cut]


# BMP, ICO


def dib(header: int, bits: int, compression=0, colours=0, masks=(), palette=b"", down=False, height=H, width=W) -> bytes:
    if header == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, bits) + palette
    fields = (header, width, -height if down else height, 1, bits, compression, 0, 2835, 2835, colours, 0)
    out = struct.pack("<IiiHHIIiiII", *fields)
    given = b"".join(struct.pack("<I", mask) for mask in masks)
    out += (given + bytes(header))[: header - 40] if header > 40 else given[:12]
    return out + palette


def bmp(head: bytes, pixels: bytes) -> bytes:
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def write_bmp() -> None:
    stride = lambda bits: (W * bits + 31) // 32 * 4
    for bits in (1, 4, 8, 16, 24, 32):
        for header in (12, 40, 64, 124):
            entry = 3 if header == 12 else 4
            palette = noisy_bytes(bits, entry << bits) if bits <= 8 else b""
            head = dib(header, bits, palette=palette, down=header == 124)
            files[f"{bits}-bits-header-{header}.bmp"] = bmp(head, noisy_bytes(header, stride(bits) * H))
    masks = {
        16: [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0)],
        24: [(0xFF0000, 0xFF00, 0xFF, 0)],
        32: [(0xFF0000, 0xFF00, 0xFF, 0), (0xFF000000, 0xFF0000, 0xFF00, 0), (0xFF000000, 0xFF00, 0xFF, 0)]
        + [(0xFF, 0xFF00, 0xFF0000, 0xFF000000), (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0, 0, 0, 0), (0x3FF00000, 0xFFC00, 0x3FF, 0)],
    }
    for bits, choices in masks.items():
        for i, choice in enumerate(choices):
            head = dib(56, bits, 3, masks=choice)
            files[f"masks-{bits}-{i}.bmp"] = bmp(head, noisy_bytes(i, stride(bits) * H))
    palette = noisy_bytes(9, 1024)
    runs = b"".join(b"\3" + bytes([40 * y]) + b"\0\4" + noisy_bytes(y, 4) + b"\0\0" for y in range(H))
    files["rle8.bmp"] = bmp(dib(40, 8, 1, palette=palette), runs + b"\0\1")
    files["rle8-down.bmp"] = bmp(dib(40, 8, 1, palette=palette, down=True), runs + b"\0\1")
    files["rle8-leap.bmp"] = bmp(dib(40, 8, 1, palette=palette), b"\2\7\0\2\3\1" + b"\2\5\0\0" + runs)
    files["rle8-early-end.bmp"] = bmp(dib(40, 8, 1, palette=palette), b"\2\7\0\1")
    four = b"".join(b"\3\x5a\0\4" + noisy_bytes(y, 2) + b"\0\0" for y in range(H))
    files["rle4.bmp"] = bmp(dib(40, 4, 2, palette=palette[:64]), four + b"\0\1")
    files["few-colours.bmp"] = bmp(dib(40, 8, colours=100, palette=noisy_bytes(8, 400)), noisy_bytes(3, stride(8) * H))
    files["cut.bmp"] = bmp(dib(40, 24), noisy_bytes(1, stride(24) * H - 9))
    files["bmp-named.jpg"] = files["24-bits-header-40.bmp"]

    bitmaps = []
    for bits in (24, 4, 32):
        colours = noisy_bytes(bits, 4 << bits) if bits <= 8 else b""
        head = dib(40, bits, palette=colours, height=2 * 16, width=16)
        bitmaps.append((bits, head + noisy_bytes(bits, (16 * bits + 31) // 32 * 4 * 16) + bytes(64)))
    for chosen in ([0], [1], [2], [0, 1, 2]):
        entries, bodies = b"", b""
        for i in chosen:
            bits, body = bitmaps[i]
            at = 6 + 16 * len(chosen) + len(bodies)
            entries += bytes([16, 16, 0, 0]) + struct.pack("<HHII", 1, bits, len(body), at)
            bodies += body
        files[f"icon-{'-'.join(map(str, chosen))}.ico"] = struct.pack("<HHH", 0, 1, len(chosen)) + entries + bodies
    files["icon-png.ico"] = saved(Image.fromarray(smooth(20, 20, 4), "RGBA"), "ICO", sizes=[(16, 16), (20, 20)])


# Netpbm


def write_netpbm() -> None:
    size = b"%d %d\n" % (W, H)
    files["bits.pbm"] = b"P4\n" + size + noisy_bytes(1, H)
    files["plain.pbm"] = b"P1 # a comment\n" + size + b"\n".join(b"".join(b"01"[v : v + 1] for v in noise(y, W, 1)) for y in range(H))
    for most in (1, 100, 255, 1000, 65535):
        wide = ">u2" if most > 255 else ">u1"
        for name, kind, plain, count in (("grey.pgm", b"P5", b"P2", W * H), ("colour.ppm", b"P6", b"P3", W * H * 3)):
            values = noise(most, count, most)
            head = b"\n# a comment\n" + size + b"%d\n" % most
            files[f"{most}-{name}"] = kind + head + values.astype(wide).tobytes()
            files[f"{most}-plain-{name}"] = plain + head + b" ".join(b"%d" % value for value in values) + b"\n"
    files["comment-joins.pgm"] = b"P2 2 1 255\n12# a comment\n3 45"
    files["cut.ppm"] = files["255-colour.ppm"][:-1]
    floats = np.array([[-3, 0.2, 1.9], [254.9, 255, 1e9]], "<f4")
    files["floats.pfm"] = b"Pf\n3 2\n-1.0\n" + floats.tobytes()
    files["floats-high-byte-first.pfm"] = b"Pf\n3 2\n2.5\n" + floats.astype(">f4").tobytes()
    files["pam.pam"] = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabc"


# TIFF


def tiff(rows: list[bytes], bits: int, photometric: int, samples=1, order="<", per_strip=2, compression=1, **tags) -> bytes:
    """Strips of `per_strip` rows; `tags` by number, as `t338=[1]`, all of type SHORT."""
    pack = {8: zlib.compress, 32773: lambda data: b"".join(bytes([0, byte]) for byte in data)}.get(compression, lambda data: data)
    strips = [pack(b"".join(rows[y : y + per_strip])) for y in range(0, len(rows), per_strip)]
    fields = {256: [W], 257: [H], 258: [bits] * samples, 259: [compression], 262: [photometric], 277: [samples], 278: [per_strip]}
    fields |= {int(name[1:]): values for name, values in tags.items()}
    if fields.get(284) == [2]:
        fields[278] = [H]
    offsets, body = [], b""
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip + bytes(len(strip) % 2)
    fields |= {273: offsets, 279: [len(strip) for strip in strips]}
    at = 8 + len(body)
    behind, entries, extra = at + 6 + 12 * len(fields), b"", b""
    for tag in sorted(fields):
        data = b"".join(struct.pack(order + "H", value) for value in fields[tag])
        entries += struct.pack(order + "HHI", tag, 3, len(fields[tag]))
        if len(data) <= 4:
            entries += data.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", behind + len(extra))
            extra += data
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return head + body + struct.pack(order + "H", len(fields)) + entries + bytes(4) + extra


def write_tiff() -> None:
    def rows(bits: int, samples: int = 1, order: str = "<") -> list[bytes]:
        if bits >= 16:
            wide = f"{order}u{bits // 8}"
            return [noise(y, W * samples, 2**bits - 1).astype(wide).tobytes() for y in range(H)]
        return [noisy_bytes(y + bits, (W * bits * samples + 7) // 8) for y in range(H)]

    for order, end in (("<", "low"), (">", "high")):
        for compression, name in ((1, "plain"), (8, "deflate"), (32773, "packbits")):
            rest = {"order": order, "compression": compression}

            def add(what: str, bits: int, photometric: int, samples: int = 1, **tags) -> None:
                files[f"{what}-{end}-{name}.tif"] = tiff(rows(bits, samples, order), bits, photometric, samples, **rest, **tags)

            for bits in (1, 2, 4, 8, 12, 16, 32):
                add(f"white-is-zero-{bits}", bits, 0)
                add(f"black-is-zero-{bits}", bits, 1)
            for bits in (8, 16, 32):
                add(f"signed-{bits}", bits, 1, t339=[2])
            for bits in (8, 16):
                add(f"rgb-{bits}", bits, 2, 3)
                add(f"alpha-{bits}", bits, 2, 4, t338=[2])
                add(f"premultiplied-{bits}", bits, 2, 4, t338=[1])
                add(f"cmyk-{bits}", bits, 5, 4)
            add("palette-4", 4, 3, t320=noise(4, 48, 65535).tolist())
            add("palette-8", 8, 3, t320=noise(4, 768, 65535).tolist())
            add("ycbcr", 8, 6, 3, t530=[1, 1])
            add("low-bit-first", 8, 2, 3, t266=[2])
            add("grey-alpha", 8, 1, 2, t338=[2])
            add("grey-premultiplied", 8, 1, 2, t338=[1])
            add("lab", 8, 8, 3)
            floats = [np.linspace(-40 * (y + 1), 90 * (y + 1), W).astype(f"{order}f4").tobytes() for y in range(H)]
            files[f"float-{end}-{name}.tif"] = tiff(floats, 32, 1, **rest, t339=[3])
            if compression == 8:
                add("predictor-8", 8, 2, 3, t317=[2])
                add("predictor-16", 16, 1, t317=[2])
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"ycbcr-pillow-{compression}.tif"] = saved(RGB.convert("YCbCr"), "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        files[f"fax-{compression}.tif"] = saved(RGB.convert("1"), "TIFF", compression=compression)
    files["lzw-predictor.tif"] = saved(Image.fromarray(smooth(60, 40)), "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    files["pages.tif"] = saved(RGB, "TIFF", save_all=True, append_images=[FLAT])
    files["cut.tif"] = files["rgb-8-low-plain.tif"][:60]


def answer(path: pathlib.Path) -> dict:
    """What Pillow reads, or that it does not."""
    try:
        image = load_image(str(path))
    except Exception:
        return {"refused": True}
    rgb = np.asarray(image)
    return {"width": rgb.shape[1], "height": rgb.shape[0], "rgb": base64.b64encode(zlib.compress(rgb.tobytes(), 9)).decode()}


def main() -> None:
    for write in (write_png, write_others_with_orientation, write_jpeg, write_webp, write_gif, write_bmp, write_netpbm, write_tiff):
        write()
    KINDS.mkdir(parents=True, exist_ok=True)
    golden = {}
    for name, data in sorted(files.items()):
        path = KINDS / name
        path.write_bytes(data)
        golden[name] = {"file": base64.b64encode(data).decode(), **answer(path)}
        path.unlink()
    versions = {"pillow": PIL.__version__}
    (KINDS / "golden.json").write_text(json.dumps({"versions": versions, "files": golden}, indent=1) + "\n")

    # Pillow has no SVG, and takes on a picture of 100,000,000 x 1 pixels, which is refused here.
    left_out = {"golden.json", "slow.svg", "svg-2000-turb.svg", "png-1e8x1.png"}
    cases = {path.name: answer(path) for path in sorted(CASES.iterdir()) if path.name not in left_out}
    (CASES / "golden.json").write_text(json.dumps({"versions": versions, "files": cases}, indent=1) + "\n")

    resized = []
    for width, height, to in ((6, 12, (5, 8)), (7, 12, (5, 8)), (8, 12, (5, 8)), (4, 9, (8, 8)), (12, 6, (8, 5)), (30, 91, (24, 24))):
        picture = noise(width, width * height * 3).astype(np.uint8).reshape(height, width, 3)
        small = np.asarray(Image.fromarray(picture).resize(to, Image.Resampling.BICUBIC))
        encode = lambda array: base64.b64encode(array.tobytes()).decode()
        resized.append({"from": [width, height], "to": to, "input": encode(picture), "output": encode(small)})
    RESIZED.write_text(json.dumps({"versions": versions, "resized": resized}, indent=1) + "\n")


if __name__ == "__main__":
    main()
