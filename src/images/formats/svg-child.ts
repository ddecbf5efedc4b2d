/**
 * The process in which `svg.ts` has a drawing made: bytes of an SVG come in, a line of JSON and the pixels go out. Filters and nested
 * pictures take any time and memory, and a thread that draws cannot be stopped, but a process can.
 */
import sharp from "sharp";
import type { SvgAnswer, SvgLimits } from "./svg.js";

const limits = JSON.parse(process.argv.at(-1)!) as SvgLimits;

// Drawing happens on other threads, so this one can keep watch.
const began = performance.now();
setInterval(() => {
  if (process.memoryUsage.rss() > limits.bytes) answer({ refused: "memory" });
  // A parent that died cannot end this process.
  else if (performance.now() - began > limits.milliseconds) answer({ refused: "time" });
}, 20).unref();

let answered = false;
process.stdout.on("error", end);

function answer(said: SvgAnswer, pixels: Uint8Array = new Uint8Array(0)): void {
  if (answered) return;
  answered = true;
  process.stdout.write(`${JSON.stringify(said)}\n`);
  process.stdout.write(pixels, end);
}

/** An ordinary end would wait for the drawing. */
function end(): void {
  process.kill(process.pid, "SIGKILL");
}

async function draw(): Promise<void> {
  const pieces: Buffer[] = [];
  for await (const piece of process.stdin) pieces.push(piece as Buffer);
  const bytes = Buffer.concat(pieces);
  const { format, width, height } = await sharp(bytes, { limitInputPixels: false }).metadata();
  if (format !== "svg") return answer({ refused: "kind" });
  if (width * height > limits.pixels) return answer({ refused: "pixels", width, height });
  const { data, info } = await sharp(bytes, {
    limitInputPixels: limits.pixels,
    ignoreIcc: true,
    failOn: "error",
  })
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  answer({ width: info.width, height: info.height, channels: info.channels }, data);
}

draw().catch((error: unknown) => answer({ damaged: error instanceof Error ? error.message : String(error) }));
