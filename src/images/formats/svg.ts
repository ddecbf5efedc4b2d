/** SVG, drawn in a process of its own (`svg-child.ts`), which is ended when it takes too long, too much memory, or is not wanted any more. */
import { stopIf } from "../../errors.js";
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type { RgbImage } from "../rgb-image.js";
import { damaged, PictureRefusal, tooLarge, unsupported } from "./refusal.js";

export interface SvgLimits {
  readonly pixels: number;
  readonly milliseconds: number;
  readonly bytes: number;
}

/** What the process says before the pixels. */
export type SvgAnswer =
  | { readonly width: number; readonly height: number; readonly channels: number }
  | { readonly refused: "pixels"; readonly width: number; readonly height: number }
  | { readonly refused: "kind" | "memory" | "time" }
  | { readonly damaged: string };

/** Most drawings take a fraction of a second, on a busy machine a few. */
export const svgLimits: SvgLimits = { pixels: 2048 * 2048, milliseconds: 6000, bytes: 700 * 2 ** 20 };

export async function decodeSvg(
  file: Uint8Array,
  signal: AbortSignal | undefined,
  limits: SvgLimits = svgLimits,
): Promise<RgbImage> {
  stopIf(signal);
  const output = await drawn(file, signal, limits);
  stopIf(signal);
  const end = output.indexOf(10);
  const answer = (end < 0 ? { refused: "memory" } : JSON.parse(output.toString("utf8", 0, end))) as SvgAnswer;
  if ("damaged" in answer) throw damaged(answer.damaged);
  if ("channels" in answer) {
    const { width, height, channels } = answer;
    const pixels = output.subarray(end + 1);
    if (pixels.length !== width * height * channels) throw damaged("its drawing was broken off");
    const data = new Uint8Array(width * height * 3);
    const grey = channels < 3;
    for (let to = 0, from = 0; to < data.length; to += 3, from += channels)
      for (let c = 0; c < 3; c++) data[to + c] = pixels[grey ? from : from + c]!;
    return { width, height, data };
  }
  if (answer.refused === "pixels") {
    throw tooLarge(
      `the drawing has ${answer.width} x ${answer.height} pixels, of SVG at most ${limits.pixels} are drawn; give it a smaller width and height`,
    );
  }
  if (answer.refused === "kind") throw unsupported("not a picture");
  throw tooLarge(
    answer.refused === "time"
      ? `drawing it takes more than ${limits.milliseconds / 1000} seconds; save it as PNG`
      : `drawing it takes more than ${Math.round(limits.bytes / 2 ** 20)} MB of memory; save it as PNG`,
  );
}

/** What the process wrote until it ended; a line that says "time" if it had to be ended. */
function drawn(file: Uint8Array, signal: AbortSignal | undefined, limits: SvgLimits): Promise<Buffer> {
  const child = spawn(process.execPath, [...childProgram(), JSON.stringify(limits)], {
    stdio: ["pipe", "pipe", "ignore"],
    // One thread draws. Options for this process are not for that one.
    env: { ...process.env, NODE_OPTIONS: "", ELECTRON_RUN_AS_NODE: "1", UV_THREADPOOL_SIZE: "2" },
    windowsHide: true,
  });
  const pieces: Buffer[] = [];
  let late = false;
  const kill = (): void => void child.kill("SIGKILL");
  // Its own watch comes first, unless it is stuck; starting it may take a while where much else is going on.
  const deadline = setTimeout(() => ((late = true), kill()), limits.milliseconds * 2 + 10_000);
  signal?.addEventListener("abort", kill);
  return new Promise<Buffer>((resolve, reject) => {
    child.on("error", (cause) =>
      reject(
        new PictureRefusal(
          "unsupported",
          `SVG is drawn in a process of its own, which cannot be started (${cause.message})`,
          { cause },
        ),
      ),
    );
    child.on("close", () => resolve(late ? Buffer.from('{"refused":"time"}\n') : Buffer.concat(pieces)));
    child.stdout.on("data", (piece: Buffer) => pieces.push(piece));
    // A process that ends early reads no further.
    child.stdin.on("error", () => undefined);
    child.stdin.end(file);
  }).finally(() => {
    clearTimeout(deadline);
    signal?.removeEventListener("abort", kill);
  });
}

/** From source the program is TypeScript, which needs its loader. */
function childProgram(): string[] {
  if (import.meta.url.endsWith(".js")) return [fileURLToPath(new URL("./svg-child.js", import.meta.url))];
  const loader = createRequire(import.meta.url).resolve("tsx");
  return [
    "--import",
    new URL(`file://${loader}`).href,
    fileURLToPath(new URL("./svg-child.ts", import.meta.url)),
  ];
}
