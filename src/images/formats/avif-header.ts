/**
 * The properties of an AVIF file's main picture: its size, and whether the file turns it. The decoder follows those turns; EXIF then
 * says nothing of the orientation, as in Pillow. The colours of AVIF differ from Pillow's by a step or two of rounding, and more where
 * chroma is subsampled, which libheif interpolates otherwise.
 */
import { Bytes } from "./bytes.js";
import { checkSize, maximumAvifPixels } from "./limits.js";
import { damaged, unsupported } from "./refusal.js";

/** Of a list in the file; usual ones have ten. */
const mostParts = 10_000;

interface Box {
  readonly kind: string;
  readonly start: number;
  readonly end: number;
}

/** Throws `PictureRefusal` if it is too large. */
export function readAvifHeader(file: Uint8Array): { readonly turned: boolean } {
  const bytes = new Bytes(file, false);
  const top = boxes(bytes, 0, file.length);
  const meta = find(top, "meta");
  if (meta === undefined) {
    // A sequence without a main picture: its first frame has the size of the track.
    return { turned: false };
  }
  const inside = boxes(bytes, meta.start + 4, meta.end);
  const main = find(inside, "pitm");
  const properties = find(inside, "iprp");
  if (main === undefined || properties === undefined) throw damaged("its main picture is missing");
  const item = bytes.u8(main.start) === 0 ? bytes.u16(main.start + 4) : bytes.u32(main.start + 4);
  const parts = boxes(bytes, properties.start, properties.end);
  const container = find(parts, "ipco");
  if (container === undefined) throw damaged("its properties are missing");
  const all = boxes(bytes, container.start, container.end);
  for (const { kind, start } of all)
    if (kind === "ispe") checkSize(bytes.u32(start + 4), bytes.u32(start + 8), maximumAvifPixels);
  const mine = parts
    .filter(({ kind }) => kind === "ipma")
    .flatMap((box) => associations(bytes, box, item))
    .flatMap((index) => all[index - 1] ?? []);
  const references = find(inside, "iref");
  refuseWhatDiffers(
    bytes,
    mine,
    references === undefined ? [] : boxes(bytes, references.start + 4, references.end),
  );
  return { turned: mine.some(({ kind }) => kind === "irot" || kind === "imir") };
}

/** What libheif decodes to other pixels than Pillow's libavif. */
function refuseWhatDiffers(bytes: Bytes, properties: readonly Box[], references: readonly Box[]): void {
  const refuse = (why: string): never => {
    throw unsupported(`AVIF ${why} is not read`);
  };
  if (find(properties, "clap") !== undefined) refuse("with a clean aperture");
  if (find(references, "prem") !== undefined) refuse("with premultiplied alpha");
  const codec = find(properties, "av1C");
  const grey = codec !== undefined && (bytes.u8(codec.start + 2) & 0x10) !== 0;
  const narrow = properties.some(
    ({ kind, start }) =>
      kind === "colr" && bytes.text(start, 4) === "nclx" && (bytes.u8(start + 10) & 0x80) === 0,
  );
  if (grey && narrow) refuse("in grey of limited range");
}

function boxes(bytes: Bytes, from: number, end: number): Box[] {
  const found: Box[] = [];
  for (let at = from; at + 8 <= end;) {
    const short = bytes.u32(at);
    const size = short === 1 ? bytes.u64(at + 8) : short === 0 ? end - at : short;
    const start = at + (short === 1 ? 16 : 8);
    if (size < start - at) throw damaged("a part of it has an impossible size");
    if (found.length === mostParts) throw damaged("it has too many parts");
    found.push({ kind: bytes.text(at + 4, 4), start, end: Math.min(end, at + size) });
    at += size;
  }
  return found;
}

function find(all: readonly Box[], kind: string): Box | undefined {
  return all.find((box) => box.kind === kind);
}

/** Numbers, from 1, of the properties that an item has. */
function associations(bytes: Bytes, { start }: Box, item: number): number[] {
  const version = bytes.u8(start);
  const wide = (bytes.u8(start + 3) & 1) === 1;
  const found: number[] = [];
  let at = start + 8;
  for (let left = bytes.u32(start + 4); left > 0; left--) {
    const id = version === 0 ? bytes.u16(at) : bytes.u32(at);
    at += version === 0 ? 2 : 4;
    for (let count = bytes.u8(at++); count > 0; count--) {
      const index = wide ? bytes.u16(at) & 0x7fff : bytes.u8(at) & 0x7f;
      at += wide ? 2 : 1;
      if (id === item) found.push(index);
      if (found.length > mostParts) throw damaged("its main picture has too many properties");
    }
  }
  return found;
}
