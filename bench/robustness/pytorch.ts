/** Files of torch.save: zips and streams around pickles, written opcode by opcode; whole, hostile, and changed. */
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openPyTorch } from "../../src/checkpoints/pytorch.js";
import type { Random } from "../../src/random.js";
import {
  bytes,
  global,
  goodTensor,
  modelPickle,
  numbers,
  tensorPickle,
  torchStream,
  torchZip,
  unicode,
  zip,
  type TensorFields,
} from "../../test/checkpoints/hostile.js";
import { inRepository } from "../repository.js";
import { changed, notTheFile } from "./changes.js";
import type { Kind, Trial } from "./trial.js";

const dangerous = [
  ["os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.getattr"],
  ["__builtin__.eval", "importlib.import_module", "torch.load", "torch.hub.load", "runpy.run_path"],
  ["shutil.rmtree", "socket.create_connection", "ctypes.CDLL", "sys.modules", "numpy.load", "pickle.loads"],
].flat();

/** Written if anything in a pickle were executed. */
const command = unicode("touch blip2-pickle-was-run");

const calls: readonly ((name: string) => Uint8Array)[] = [
  (name) => bytes(global(name), command, 0x85, "R"),
  (name) => bytes(global(name), "(", command, "tR"),
  (name) => bytes(global(name), command, 0x85, 0x81),
  (name) => bytes(global(name), ")R}b"),
  (name) => bytes("(", global(name), command, "o"),
  (name) => bytes(global(name)),
];

const wrap = (pickle: Uint8Array, data: Uint8Array | undefined, random: Random): Buffer =>
  Buffer.from(
    random.chance(0.5)
      ? torchZip(pickle, data)
      : torchStream(pickle, (data?.length ?? 24) / 4, data ?? numbers(6)),
  );

/** Tensors that leave their storage, or claim what cannot be. */
function impossible(random: Random): TensorFields {
  const huge = random.pick([2 ** 31, 2 ** 52, 2n ** 62n, -1, -(2 ** 31)]);
  return random.pick<TensorFields>([
    { ...goodTensor, offset: random.pick([6, 7, 2 ** 40, -1]) },
    { ...goodTensor, dims: [2, 4] },
    { ...goodTensor, dims: [huge, 3] },
    { ...goodTensor, strides: [huge, 1] },
    { ...goodTensor, count: huge },
    { ...goodTensor, key: "absent" },
    { ...goodTensor, type: "torch.ComplexFloatStorage" },
  ]);
}

function badZip(random: Random): Buffer {
  const pickle = modelPickle(tensorPickle(goodTensor));
  const [name, data] = ["archive/data.pkl", numbers(6)];
  return Buffer.from(
    random.pick([
      () =>
        zip([
          { name, data: pickle, listed: { length: 2 ** 31 - 1 } },
          { name: "archive/data/0", data },
        ]),
      () =>
        zip([
          { name, data: pickle, listed: { offset: 2 ** 31 } },
          { name: "archive/data/0", data },
        ]),
      () => zip([{ name: "../data.pkl", data: pickle }]),
      () =>
        zip([
          { name, data: pickle, mode: 0o120777 },
          { name: "archive/data/0", data },
        ]),
      () =>
        zip([
          { name, data: pickle, flags: 1 },
          { name: "archive/data/0", data },
        ]),
      () =>
        zip([
          { name, data: pickle },
          { name, data: pickle },
          { name: "archive/data/0", data },
        ]),
      () => zip([{ name, data: pickle }], { count: 60_000 }),
      () => zip([{ name: "archive/other", data }]),
    ])(),
  );
}

export const pytorch: Kind = {
  name: "pytorch",
  title: "`.pth` and `.bin` files",
  rule:
    "Zips and streams with pickles, written here opcode by opcode with known numbers, and those of torch itself in `test/golden/checkpoints`; then whole, with calls of functions (all have to be refused), with tensors or zip directories that cannot be, or changed in some bytes. " +
    "Right: the known numbers. Accepted: a changed file whose tensors all lie within it.",
  count: 2000,
  quick: 120,
  limit: 20_000,
  async prepare(folder) {
    const path = join(folder, "model.pth");
    const golden = inRepository("test/golden/checkpoints");
    const names = (await readdir(golden, { recursive: true }))
      .filter((name) => /\.(pth|bin)$/.test(name))
      .sort();
    const originals = await Promise.all(names.map((name) => readFile(join(golden, name))));
    const readAll = async (file: Uint8Array): Promise<Map<string, Float32Array>> => {
      await writeFile(path, file);
      const opened = await openPyTorch(path);
      const found = new Map<string, Float32Array>();
      for (const name of opened.tensors.keys())
        found.set(name, (await opened.read(name)).data as Float32Array);
      return found;
    };
    const reading = (form: string, must: Trial["must"], file: Uint8Array): Trial => ({
      form,
      must,
      run: async () => {
        await readAll(file);
        const left = await readdir(process.cwd());
        return left.includes("blip2-pickle-was-run") ? "a pickle was executed" : undefined;
      },
    });
    return (random, index): Trial => {
      const part = index % 10;
      if (part < 2) {
        const [rows, columns] = [random.between(1, 9), random.between(1, 9)];
        const values = Float32Array.from({ length: rows * columns }, () => random.between(-1000, 1000) / 8);
        const fields = { ...goodTensor, count: values.length, dims: [rows, columns], strides: [columns, 1] };
        const file = wrap(modelPickle(tensorPickle(fields)), new Uint8Array(values.buffer), random);
        const run = async (): Promise<string | undefined> => {
          const found = (await readAll(file)).get("weight");
          return found?.join() === values.join() ? undefined : `values ${found?.slice(0, 9).join()}`;
        };
        return { form: "whole", must: "read", run };
      }
      if (part < 5) {
        const payload = random.pick(calls)(random.pick(dangerous));
        const tensor = tensorPickle(goodTensor);
        const pickle = random.pick([
          bytes(0x80, 2, payload, "."),
          modelPickle(tensor, bytes(unicode("config"), payload)),
          modelPickle(payload),
          modelPickle(tensor, bytes(payload, unicode("value"))),
        ]);
        return reading("calls a function", "refuse", wrap(pickle, undefined, random));
      }
      if (part === 5) {
        const file = wrap(modelPickle(tensorPickle(impossible(random))), undefined, random);
        return reading("a tensor that cannot be", "refuse", file);
      }
      if (part === 6) {
        if (random.chance(0.5)) return reading("a zip that cannot be", "refuse", badZip(random));
        const [what, file] = random.pick(Object.entries(notTheFile));
        return reading(`no checkpoint: ${what}`, "refuse", file);
      }
      const { what, bytes: file } = changed(random.pick(originals), random);
      return reading(what, "either", file);
    };
  },
};
