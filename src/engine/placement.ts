/**
 * Where the runtime finds weights that stay in their files. It maps a tensor from a file only if that file lies
 * in the folder of the model, and refuses ways out of it: "..", absolute paths, symbolic links. So the small model
 * is written beside the weights for the time of loading; for files in several folders, such as those of a hub cache,
 * into a folder of its own that holds hard links. Where neither is possible (a folder that cannot be written on a
 * file system of its own) the weights are copied through memory.
 */
import { createHash, randomBytes } from "node:crypto";
import { link, mkdir, open, readdir, realpath, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { UserError } from "../errors.js";
import type { StoredTensor } from "../host-tensor.js";
import type { Locate } from "./emit.js";
import type { NamedBytes, PlacedModel } from "./session-protocol.js";

export interface Placement {
  readonly locate: Locate;
  /** Why the weights cannot be read in place, if so. */
  readonly notice?: string;
  /** Makes the model ready to be loaded. */
  write(model: Uint8Array): Promise<PlacedModel>;
  /** Takes back what was written; a loaded model needs none of it. */
  remove(): Promise<void>;
}

// Tells hosts apart without naming them: the name of this file may be reported where the runtime reports its use.
const host = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);
const prefix = `.blip2-load-${host}-`;
const uniqueName = (): string => `${prefix}${process.pid}-${randomBytes(4).toString("hex")}`;

/** Finds a way for the runtime to reach `files`, at least one. Throws `UserError` if one of them cannot be read. */
export async function placeBeside(files: readonly string[]): Promise<Placement> {
  const real = new Map<string, string>();
  for (const file of files) {
    real.set(
      file,
      await realpath(file).catch((error: unknown) => {
        throw new UserError(`${file}: cannot be read (${(error as { code?: string }).code})`, {
          cause: error,
        });
      }),
    );
  }
  const folders = new Set([...real.values()].map((file) => dirname(file)));
  const problems: string[] = [];
  const attempts = folders.size === 1 ? [sameFolder, linked] : [linked];
  for (const attempt of attempts) {
    // Folders that the files are in come first, as links cannot leave a file system.
    for (const folder of new Set([...folders, ...files.map((file) => dirname(file))])) {
      try {
        await removeAbandoned(folder);
        return await attempt(folder, real);
      } catch (error) {
        const { code } = error as { code?: string };
        if (code === undefined) throw error;
        problems.push(`${folder}: ${code}`);
      }
    }
  }
  return inMemory(files, [...new Set(problems)].join(", "));
}

type RealPaths = ReadonlyMap<string, string>;

async function sameFolder(folder: string, real: RealPaths): Promise<Placement> {
  const path = join(folder, `${uniqueName()}.onnx`);
  await writeFile(path, "", { flag: "wx" }); // fails here, if at all
  return {
    locate: ({ file, offset }) => ({ location: basename(real.get(file)!), offset }),
    write: async (model) => {
      await writeFile(path, model);
      return { path };
    },
    remove: () => rm(path, { force: true }),
  };
}

async function linked(folder: string, real: RealPaths): Promise<Placement> {
  const own = join(folder, uniqueName());
  await mkdir(own);
  const names = new Map([...real.keys()].map((file, i) => [file, `weights-${i}`]));
  const remove = (): Promise<void> => rm(own, { recursive: true, force: true });
  try {
    for (const [file, name] of names) await link(real.get(file)!, join(own, name));
  } catch (error) {
    await remove();
    throw error;
  }
  return {
    locate: ({ file, offset }) => ({ location: names.get(file)!, offset }),
    write: async (model) => {
      const path = join(own, "model.onnx");
      await writeFile(path, model);
      return { path };
    },
    remove,
  };
}

function inMemory(files: readonly string[], why: string): Placement {
  const wanted: StoredTensor[] = [];
  const nameOf = (index: number): string => `weights-${index}`;
  return {
    locate: (tensor) => ({ location: nameOf(wanted.push(tensor) - 1), offset: 0 }),
    notice:
      `the weights of ${files[0]} are copied into memory, which takes longer and more of it: ` +
      `they could be mapped if a file could be written beside them (${why})`,
    write: async (bytes) => {
      const externalData: NamedBytes[] = [];
      for (const [i, tensor] of wanted.entries()) {
        externalData.push({ path: nameOf(i), data: await readBytes(tensor) });
      }
      return { bytes, externalData };
    },
    remove: () => Promise.resolve(),
  };
}

async function readBytes({ file, offset, length }: StoredTensor): Promise<Uint8Array<ArrayBuffer>> {
  const handle = await open(file, "r");
  try {
    const bytes = new Uint8Array(new ArrayBuffer(length));
    // One system call moves less than 2 GiB.
    for (let done = 0; done < length;) {
      const most = Math.min(2 ** 30, length - done);
      const { bytesRead } = await handle.read(bytes, done, most, offset + done);
      if (bytesRead === 0) {
        throw new UserError(`${file}: ends at byte ${offset + done}; it changed or is truncated`);
      }
      done += bytesRead;
    }
    return bytes;
  } finally {
    await handle.close();
  }
}

/** Deletes what a process of this host that no longer runs has left behind. */
async function removeAbandoned(folder: string): Promise<void> {
  for (const entry of await readdir(folder)) {
    if (!entry.startsWith(prefix)) continue;
    const pid = Number.parseInt(entry.slice(prefix.length), 10);
    if (pid > 0 && pid !== process.pid && !isAlive(pid)) {
      await rm(join(folder, entry), { recursive: true, force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: string }).code !== "ESRCH";
  }
}
