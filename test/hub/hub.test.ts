import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rm,
  symlink,
  writeFile,
  type FileHandle,
} from "node:fs/promises";
import type * as FileSystem from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { scanCacheDir } from "@huggingface/hub";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { findModel, isHubId, type DownloadReport, type HubOptions } from "../../src/hub/hub.js";
import type { HubSettings } from "../../src/hub/settings.js";
import { readModelFolder } from "../../src/checkpoints/model-folder.js";
import { InterruptedError, UserError } from "../../src/errors.js";
import {
  gitHash,
  isLarge,
  LoopbackHub,
  refuse,
  sendBytes,
  sha256,
  type Model,
} from "../checkpoints/loopback-hub.js";

vi.mock("node:fs/promises", async (load) => {
  const original = await load<typeof FileSystem>();
  return { ...original, symlink: vi.fn(original.symlink) };
});

const id = "org/small-blip";
const [first, second] = ["1".repeat(40), "2".repeat(40)];

/** A tensor of 150,000 floats in a file of its own. */
function tensorFile(name: string): Buffer {
  const header = Buffer.from(
    JSON.stringify({ [name]: { dtype: "F32", shape: [150_000], data_offsets: [0, 600_000] } }),
  );
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, randomBytes(600_000).map((byte) => byte & 0x3f)]);
}

const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

function smallModel(): Model {
  const files: Record<string, Buffer> = {
    ".gitattributes": Buffer.from("* lfs"),
    "README.md": Buffer.from("# A model"),
    "config.json": json({ model_type: "blip-2" }),
    "generation_config.json": json({ max_new_tokens: 5 }),
    "preprocessor_config.json": json({ do_resize: true }),
    "tokenizer.json": json({ version: "1.0" }),
    "tokenizer_config.json": json({ pad_token: "<pad>" }),
    "vocab.json": json({ a: 0 }),
    "merges.txt": Buffer.from("#version: 0.2\n"),
    "pytorch_model.bin": randomBytes(100),
    "model.safetensors.index.json": json({ weight_map: { a: shards[0], b: shards[1] } }),
    [shards[0]]: tensorFile("a"),
    [shards[1]]: tensorFile("b"),
  };
  return { id, refs: { main: first, "refs/pr/1": first }, commits: { [first]: files } };
}
const needed = [
  "config.json",
  "generation_config.json",
  ...shards,
  "model.safetensors.index.json",
  "preprocessor_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

let root: string;
let hub: LoopbackHub;
let settings: HubSettings;
const model = (): Model => hub.models[0]!;
const filesOf = (): Record<string, Buffer> => model().commits[first]!;
const folderOf = (...parts: string[]): string => join(settings.cache, "models--org--small-blip", ...parts);
const snapshot = (): string => folderOf("snapshots", first);
const find = (options: HubOptions = {}, changed: Partial<HubSettings> = {}, name = id): Promise<string> =>
  findModel(name, options, { ...settings, ...changed });
const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error = await work.then(
    () => new Error("was accepted"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as Error).message
    .replaceAll(settings.cache, "CACHE")
    .replaceAll(hub.endpoint, "http://HUB")
    .replaceAll(new URL(hub.endpoint).host, "HUB")
    .replaceAll(hub.storeHost, "STORE");
};
const partialOf = (name: string): string => folderOf("blobs", `${sha256(filesOf()[name]!)}.blip2.incomplete`);
/** All files are right, and nothing that was needed on the way is left. */
async function expectWhole(): Promise<void> {
  for (const name of needed) {
    expect(filesOf()[name]!.equals(await readFile(join(snapshot(), name))), name).toBe(true);
  }
  const blobs = await readdir(folderOf("blobs"));
  expect(blobs.filter((name) => name.includes("."))).toEqual([]);
  expect(await readdir(join(settings.cache, ".locks", "models--org--small-blip"))).toEqual([]);
}

beforeEach(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), "blip2-hub-")));
  hub = await new LoopbackHub([smallModel()]).start();
  settings = {
    endpoint: hub.endpoint,
    cache: join(root, "hub"),
    token: undefined,
    offline: false,
    timeout: 2000,
    retries: 3,
    pause: 1,
  };
});
afterEach(async () => {
  await hub.stop();
  await rm(root, { recursive: true, force: true });
});

describe("a model on the hub", () => {
  it("is fetched into the cache's layout, and only what it needs", async () => {
    const reports: DownloadReport[] = [];
    expect(await find({ onDownload: (report) => reports.push(report) })).toBe(snapshot());
    expect((await readdir(snapshot())).sort()).toEqual([...needed].sort());
    for (const name of needed) {
      const bytes = filesOf()[name]!;
      const etag = isLarge(name) ? sha256(bytes) : gitHash(bytes);
      expect(await readlink(join(snapshot(), name))).toBe(join("..", "..", "blobs", etag));
    }
    expect(await readFile(folderOf("refs", "main"), "utf8")).toBe(first);
    expect((await readdir(folderOf(".no_exist", first))).sort()).toContain("processor_config.json");
    await expectWhole();

    const total = needed.reduce((sum, name) => sum + filesOf()[name]!.length, 0);
    expect(reports.at(-1)).toEqual({ file: shards[1], done: total, total });
    expect(reports.every(({ done }, i) => i === 0 || done >= reports[i - 1]!.done)).toBe(true);
  });

  it("can be read through the links", async () => {
    const { weights, config, generationConfig } = await readModelFolder(await find());
    expect(config).toEqual({ model_type: "blip-2" });
    expect(generationConfig).toEqual({ max_new_tokens: 5 });
    const { data } = await weights.read("b");
    expect(filesOf()[shards[1]]!.subarray(-600_000).equals(Buffer.from(data.buffer))).toBe(true);
  });

  it("is found in the cache by the hub's own client", async () => {
    await find();
    const { repos, warnings } = await scanCacheDir(settings.cache);
    expect(warnings).toEqual([]);
    expect(repos.map((repo) => repo.id)).toEqual([{ name: id, type: "model" }]);
    const [revision] = repos[0]!.revisions;
    expect(revision).toMatchObject({ commitOid: first, refs: ["main"] });
    expect(revision!.files).toHaveLength(needed.length);
  });

  it("is not fetched again, and a commit that is there asks nothing", async () => {
    await find();
    const before = hub.asked.length;
    expect(await find()).toBe(snapshot());
    expect(hub.asked.slice(before).map(({ path }) => path)).toEqual([`/api/models/${id}/revision/main`]);
    expect(await find({ revision: first })).toBe(snapshot());
    expect(hub.asked).toHaveLength(before + 1);
  });

  it("takes up what Python left of it, and fetches what is lacking", async () => {
    const bytes = filesOf()["config.json"]!;
    await mkdir(folderOf("blobs"), { recursive: true });
    await mkdir(snapshot(), { recursive: true });
    await writeFile(folderOf("blobs", gitHash(bytes)), bytes);
    await symlink(join("..", "..", "blobs", gitHash(bytes)), join(snapshot(), "config.json"));
    await writeFile(folderOf("blobs", sha256(filesOf()[shards[0]]!)), filesOf()[shards[0]]!);
    await find();
    expect(hub.sent).not.toContain("config.json");
    expect(hub.sent).not.toContain(shards[0]);
    await expectWhole();
  });

  it("brings only what changed with the next commit", async () => {
    await find();
    const before = hub.sent.length;
    model().refs["main"] = second;
    model().commits[second] = { ...filesOf(), "config.json": json({ model_type: "blip-2", new: true }) };
    expect(await find()).toBe(folderOf("snapshots", second));
    expect(hub.sent.slice(before)).toEqual(["config.json"]);
    expect(await readFile(folderOf("refs", "main"), "utf8")).toBe(second);
    expect(await find({ revision: first })).toBe(snapshot());
  });

  it("has revisions with slashes", async () => {
    expect(await find({ revision: "refs/pr/1" })).toBe(snapshot());
    expect(await readFile(folderOf("refs", "refs", "pr", "1"), "utf8")).toBe(first);
  });

  it("may have its weights in one file, and an older tokenizer", async () => {
    const { "tokenizer.json": _, "model.safetensors.index.json": __, ...files } = filesOf();
    model().commits[first] = { ...files, "model.safetensors": tensorFile("a") };
    await find();
    expect((await readdir(snapshot())).sort()).toEqual([
      "config.json",
      "generation_config.json",
      "merges.txt",
      "model.safetensors",
      "preprocessor_config.json",
      "tokenizer_config.json",
      "vocab.json",
    ]);
  });

  it("must have safetensors", async () => {
    model().commits[first] = { "config.json": json({}), "pytorch_model.bin": randomBytes(9) };
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): weights as model.safetensors are required, the model has pytorch_model.bin; choose a --revision that has them (the hub offers conversions as refs/pr/N), or another model"`,
    );
    model().commits[first] = { "README.md": randomBytes(9) };
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): is no model that can be run: it has no config.json"`,
    );
  });

  it("cannot place files elsewhere", async () => {
    const weight_map = { a: "../../../../evil.safetensors" };
    const evil = { "../../../evil.json": json({}), "/tmp/evil.json": json({}), "..": json({}) };
    model().commits[first] = { ...filesOf(), ...evil, "model.safetensors.index.json": json({ weight_map }) };
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): model.safetensors.index.json names "../../../../evil.safetensors", which the model does not have"`,
    );
    const entries = await readdir(root, { recursive: true });
    expect(entries.filter((name) => name.includes("evil"))).toEqual([]);
    hub.interfere = ({ path }, response) => {
      if (!path.includes("/revision/")) return false;
      response.end(JSON.stringify({ id, sha: "../../../evil" }));
      return true;
    };
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): http://HUB names no commit; check HF_ENDPOINT"`,
    );
    expect(await refusal(find({ revision: "../evil" }))).toMatchInlineSnapshot(
      `"org/small-blip: a branch, a tag or a commit is required as revision, got "../evil""`,
    );
  });

  it("moves or copies files where links are impossible", async () => {
    vi.mocked(symlink).mockImplementation(() =>
      Promise.reject(Object.assign(new Error("not permitted"), { code: "EPERM", syscall: "symlink" })),
    );
    try {
      await find();
      for (const name of needed) expect((await lstat(join(snapshot(), name))).isFile(), name).toBe(true);
      await expectWhole();
      const before = hub.sent.length;
      await find();
      expect(hub.sent).toHaveLength(before);
    } finally {
      vi.mocked(symlink).mockReset();
    }
  });
});

describe("the token", () => {
  it("goes to the hub and to nobody else", async () => {
    await find({}, { token: "secret" });
    const [atHub, atStore] = (["hub", "store"] as const).map((host) =>
      hub.asked.filter((a) => a.host === host),
    );
    expect(atHub!.length).toBeGreaterThan(needed.length);
    expect(new Set(atHub!.map((a) => a.authorization))).toEqual(new Set(["Bearer secret"]));
    expect(atStore).toHaveLength(shards.length);
    expect(new Set(atStore!.map((a) => a.authorization))).toEqual(new Set([undefined]));
  });

  it("does not follow a listing's next page to another host", async () => {
    hub.interfere = ({ host, path }, response) => {
      if (!path.includes("/tree/")) return false;
      if (host === "hub") response.setHeader("link", `<http://${hub.storeHost}${path}>; rel="next"`);
      response.end("[]");
      return true;
    };
    await refusal(find({}, { token: "secret" }));
    expect(hub.asked.find(({ host }) => host === "store")?.authorization).toBeUndefined();
    expect(hub.asked.some(({ host }) => host === "store")).toBe(true);
  });
});

describe("a bad connection", () => {
  /** Lets the store break off after `bytes` of each answer about the first shard, `times` times. */
  const breakOff = (bytes: number, times: number): void => {
    let left = times;
    hub.interfere = ({ host, path, range }, response, body) => {
      if (host !== "store" || !path.endsWith(shards[0]) || left-- <= 0) return false;
      const start = Number(/\d+/.exec(range ?? "0")![0]);
      const total = body!.length;
      if (range !== undefined) {
        response.writeHead(206, { "content-range": `bytes ${start}-${total - 1}/${total}` });
      }
      // A reader that has not taken the bytes yet loses them when the connection breaks.
      response.write(body!.subarray(start, start + bytes), () => setTimeout(() => response.destroy(), 200));
      return true;
    };
  };
  const rangesOf = (name: string): (string | undefined)[] =>
    hub.asked.filter(({ host, path }) => host === "store" && path.endsWith(name)).map(({ range }) => range);

  it("that breaks in the middle is taken up there", async () => {
    breakOff(100_000, 2);
    await find();
    await expectWhole();
    expect(rangesOf(shards[0])).toEqual([undefined, "bytes=100000-", "bytes=200000-"]);
  });

  it("that breaks again and again is given up, and the next call goes on", async () => {
    breakOff(50_000, 4);
    expect(await refusal(find())).toMatch(
      /^org\/small-blip \(revision main\): cannot be fetched from HUB \(.*, 4 tries\); check the network, or choose a mirror with HF_ENDPOINT; what has arrived is kept, and the same command goes on from there$/,
    );
    expect((await lstat(partialOf(shards[0]))).size).toBe(200_000);
    expect(await readdir(folderOf())).not.toContain("refs");
    await find();
    await expectWhole();
    expect(rangesOf(shards[0]).at(-1)).toBe("bytes=200000-");
  });

  it("to a server that knows no ranges starts again", async () => {
    breakOff(100_000, 1);
    const broken = hub.interfere;
    hub.interfere = (asked, response, body) => {
      if (broken(asked, response, body)) return true;
      if (asked.host === "hub" || asked.range === undefined) return false;
      sendBytes(response, body!, undefined);
      return true;
    };
    await find();
    await expectWhole();
    expect(rangesOf(shards[0])).toEqual([undefined, "bytes=100000-"]);
  });

  it.each([
    ["refuses the range", 416, {}],
    ["sends another range", 206, { "content-range": "bytes 0-9/10" }],
    ["does not say which", 206, {}],
  ])("to a server that %s starts again", async (_, status, headers) => {
    await mkdir(folderOf("blobs"), { recursive: true });
    await writeFile(partialOf(shards[0]), filesOf()[shards[0]]!.subarray(0, 1000));
    hub.interfere = ({ host, range }, response) => {
      if (host === "hub" || range === undefined) return false;
      response.writeHead(status, headers).end("0123456789");
      return true;
    };
    await find();
    await expectWhole();
    expect(rangesOf(shards[0])).toEqual(["bytes=1000-", undefined]);
  });

  it("that falls silent counts as broken", async () => {
    let isFirst = true;
    hub.interfere = ({ path }, response, body) => {
      if (!path.endsWith("tokenizer.json") || !isFirst) return false;
      isFirst = false;
      response.writeHead(200, { "content-length": body!.length }).write(body!.subarray(0, 3));
      return true;
    };
    await find({}, { timeout: 200 });
    await expectWhole();
    expect(hub.asked.find(({ range }) => range !== undefined)).toMatchObject({ range: "bytes=3-" });
  });

  it("that damages a file once is tried again, with nothing of the damaged copy", async () => {
    let isFirst = true;
    hub.interfere = ({ host, path, range }, response, body) => {
      if (host !== "store" || !path.endsWith(shards[1]) || !isFirst) return false;
      isFirst = false;
      const damaged = Buffer.from(body!);
      damaged[300_000]! ^= 1;
      sendBytes(response, damaged, range);
      return true;
    };
    await find();
    await expectWhole();
    expect(rangesOf(shards[1])).toEqual([undefined, undefined]);
  });

  it.each([shards[0], "config.json"])("or mirror that has another %s is refused", async (name) => {
    hub.interfere = ({ host, path, range }, response, body) => {
      if (!path.endsWith(name) || (isLarge(name) && host === "hub")) return false;
      sendBytes(response, Buffer.alloc(body!.length, 7), range);
      return true;
    };
    const message = await refusal(find());
    const [found, listed] = [Buffer.alloc(filesOf()[name]!.length, 7), filesOf()[name]!].map(
      isLarge(name) ? sha256 : gitHash,
    );
    expect(message).toBe(
      `org/small-blip (revision main): ${name} from HUB has the ${isLarge(name) ? "SHA-256" : "git hash"} ${found}, the hub lists ${listed}; ` +
        "it was damaged on its way or is another file, so it is not kept; try again, or another mirror with HF_ENDPOINT",
    );
    expect((await readdir(folderOf("blobs"))).filter((entry) => entry.startsWith(listed!))).toEqual([]);
    hub.interfere = () => false;
    await find();
    await expectWhole();
  });

  it("cannot fill the disk with a file that does not end", async () => {
    hub.interfere = ({ path }, response) => {
      if (!path.endsWith("tokenizer.json")) return false;
      const more = (): void => void response.write(Buffer.alloc(65536), (failed) => failed ?? more());
      more();
      return true;
    };
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): tokenizer.json from HUB is longer than the 17 bytes that the hub lists; try again, or another mirror with HF_ENDPOINT"`,
    );
  });

  it("does not spoil a partial file that lies there damaged", async () => {
    await mkdir(folderOf("blobs"), { recursive: true });
    await writeFile(partialOf(shards[0]), Buffer.alloc(1000, 9));
    await writeFile(partialOf(shards[1]), Buffer.alloc(700_000, 9));
    await find();
    await expectWhole();
  });

  it("ends at once on request, and keeps what has arrived", async () => {
    const controller = new AbortController();
    hub.interfere = ({ host, path }, response, body) => {
      if (host !== "store" || !path.endsWith(shards[0])) return false;
      response.writeHead(200, { "content-length": body!.length }).write(body!.subarray(0, 70_000));
      return true;
    };
    const onDownload = ({ file, done }: DownloadReport): void => {
      if (file === shards[0] && done > 70_000) controller.abort();
    };
    await expect(find({ signal: controller.signal, onDownload })).rejects.toThrow(InterruptedError);
    expect((await lstat(partialOf(shards[0]))).size).toBe(70_000);
    await expect(find({ signal: controller.signal })).rejects.toThrow(InterruptedError);
    hub.interfere = () => false;
    await find();
    await expectWhole();
  });
});

describe("refusals", () => {
  const answering = (status: number, code?: string): void => {
    hub.interfere = (_, response) => {
      refuse(response, status, code);
      return true;
    };
  };

  it.each([
    ["an unknown model", 401, "RepoNotFound", undefined],
    ["an unknown model, with a token", 404, "RepoNotFound", "hf_x"],
    ["an unknown revision", 404, "RevisionNotFound", undefined],
    ["a gated model", 403, "GatedRepo", "hf_x"],
    ["a gated model, without a token", 401, "GatedRepo", undefined],
    ["a bad token", 401, undefined, "hf_x"],
    ["anything else", 400, undefined, undefined],
  ])("%s", async (_, status, code, token) => {
    answering(status, code);
    expect(await refusal(find({ revision: "v1" }, { token }))).toMatchSnapshot();
    expect(hub.asked).toHaveLength(1);
  });

  it("what is no hub", async () => {
    hub.interfere = (_, response) => {
      response.writeHead(200, { "content-type": "text/html" }).end("<html>please log in</html>");
      return true;
    };
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): http://HUB does not answer as a hub does; check HF_ENDPOINT"`,
    );
  });

  it("a busy hub is asked again, when it says so", async () => {
    let refusals = 0;
    hub.interfere = (_, response) => {
      if (refusals >= 2) return false;
      response.setHeader("retry-after", "0.05");
      refuse(response, [429, 503][refusals++]!);
      return true;
    };
    const started = performance.now();
    await find();
    expect(performance.now() - started).toBeGreaterThan(100);
    await expectWhole();
  });

  it("a broken hub is given up", async () => {
    answering(500);
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"org/small-blip (revision main): cannot be fetched from HUB (status 500, 4 tries); check the network, or choose a mirror with HF_ENDPOINT; there is no folder org/small-blip, and the cache CACHE has no copy"`,
    );
    expect(hub.asked).toHaveLength(settings.retries + 1);
  });
});

describe("without a network", () => {
  const notices: string[] = [];
  const onNotice = (notice: string): void => void notices.push(notice.replaceAll(settings.cache, "CACHE"));
  beforeEach(() => void (notices.length = 0));

  it("offline, the cache serves and nothing is asked", async () => {
    await find();
    const before = hub.asked.length;
    expect(await find({}, { offline: true })).toBe(snapshot());
    expect(await find({ revision: first }, { offline: true })).toBe(snapshot());
    expect(hub.asked).toHaveLength(before);
  });

  it("offline, an empty or incomplete cache is named", async () => {
    expect(await refusal(find({}, { offline: true }))).toMatchInlineSnapshot(
      `"org/small-blip (revision main): there is no folder org/small-blip, and the cache CACHE has no copy, while HF_HUB_OFFLINE forbids to fetch it; unset that, or bring the cache from a machine that has it"`,
    );
    await find();
    await rm(join(snapshot(), shards[1]));
    await rm(join(snapshot(), "tokenizer.json"));
    await rm(join(snapshot(), "preprocessor_config.json"));
    expect(await refusal(find({}, { offline: true }))).toMatchInlineSnapshot(
      `"org/small-blip (revision main): there is no folder org/small-blip, and the cache CACHE has a copy that lacks model-00002-of-00002.safetensors, tokenizer.json, preprocessor_config.json, while HF_HUB_OFFLINE forbids to fetch it; unset that, or bring the cache from a machine that has it"`,
    );
  });

  it("a snapshot by Python serves as it is", async () => {
    await find();
    await rm(folderOf(".no_exist"), { recursive: true });
    expect(await find({}, { offline: true })).toBe(snapshot());
  });

  it("a hub that is gone is replaced by the cache, and that is said", async () => {
    await find();
    await hub.stop();
    expect(await find({ onNotice })).toBe(snapshot());
    expect(notices).toEqual([
      `org/small-blip (revision main): the hub cannot be reached; the copy in the cache is used (${first})`,
    ]);
    await rm(join(snapshot(), "config.json"));
    const message = await refusal(find({ onNotice }));
    expect(message).toContain("cannot be fetched from HUB (ECONNREFUSED, 2 tries); check the network");
    expect(message).toContain("the cache CACHE has a copy that lacks config.json");
    hub = await new LoopbackHub([]).start();
  });
});

describe("the disk", () => {
  /** Lets writes to files fail as on a full disk after so many bytes. */
  async function fillAfter(bytes: number): Promise<{ free: () => void }> {
    const probe = await open(join(root, "probe"), "w");
    const prototype = Object.getPrototypeOf(probe) as FileHandle;
    await probe.close();
    let left = bytes;
    // eslint-disable-next-line typescript/unbound-method -- called with its own handle below
    const write = prototype.write as (
      this: FileHandle,
      ...args: unknown[]
    ) => Promise<{ bytesWritten: number }>;
    const spy = vi.spyOn(prototype, "write").mockImplementation(async function (
      this: FileHandle,
      data: Uint8Array,
      offset: number,
      length: number,
      position: number,
    ) {
      if (left === 0) throw Object.assign(new Error("no space left"), { code: "ENOSPC", syscall: "write" });
      const some = Math.min(length, left);
      left -= some;
      return write.call(this, data, offset, some, position);
    } as never);
    return { free: () => spy.mockRestore() };
  }

  it("that is full keeps what has arrived, breaks nothing, and is named", async () => {
    const disk = await fillAfter(300_000);
    let message: string;
    try {
      message = await refusal(find());
    } finally {
      disk.free();
    }
    expect(message.replace(/[0-9a-f]{64}/, "ETAG")).toMatchInlineSnapshot(
      `"CACHE/models--org--small-blip/blobs/ETAG.blip2.incomplete: no space is left on this disk; what has arrived is kept, and the same command goes on from there once some space is free; or choose another place with HF_HUB_CACHE"`,
    );
    const kept = (await lstat(partialOf(shards[0]))).size;
    expect(kept).toBeGreaterThan(200_000);
    expect(kept).toBeLessThan(300_001);
    expect((await readdir(folderOf("snapshots", first))).includes(shards[0])).toBe(false);
    await find();
    await expectWhole();
    expect(hub.asked.find(({ range }) => range !== undefined)?.range).toBe(`bytes=${kept}-`);
  });

  it("whose cache cannot be written is named", async () => {
    await writeFile(settings.cache, "a file");
    expect(await refusal(find())).toMatchInlineSnapshot(
      `"CACHE/models--org--small-blip: cannot be written (ENOTDIR); check the permissions, or choose another place with HF_HUB_CACHE"`,
    );
  });
});

describe("several processes", () => {
  it("at once fetch each file once", async () => {
    const notices: string[] = [];
    hub.interfere = ({ host, range }, response, body) => {
      if (host !== "store") return false;
      setTimeout(() => sendBytes(response, body!, range), 100);
      return true;
    };
    const found = await Promise.all(
      [1, 2, 3].map(() => find({ onNotice: (notice) => notices.push(notice) })),
    );
    expect(found).toEqual([snapshot(), snapshot(), snapshot()]);
    await expectWhole();
    expect([...hub.sent].sort()).toEqual([...needed].sort());
    expect(notices.join("\n")).toMatch(
      /^org\/small-blip \(revision main\): another process is fetching [\w.-]+; waiting for it$/m,
    );
  });

  it("one that is killed leaves its part to the next", { timeout: 30_000 }, async () => {
    let isSlow = true;
    let onHalf = (): void => undefined;
    const half = new Promise<void>((resolve) => (onHalf = resolve));
    hub.interfere = ({ host, path }, response, body) => {
      if (host !== "store" || !path.endsWith(shards[1]) || !isSlow) return false;
      response.writeHead(200, { "content-length": body!.length });
      response.write(body!.subarray(0, 300_000), () => setTimeout(onHalf, 300));
      return true;
    };
    const child = spawn(
      process.execPath,
      ["--import", "tsx", "test/checkpoints/fixtures/fetch-child.ts", id, hub.endpoint, settings.cache],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await half;
    child.kill("SIGKILL");
    await once(child, "exit");
    isSlow = false;
    expect(await refusal(find({}, { offline: true }))).toContain("has no copy");
    const before = hub.asked.length;
    await find();
    await expectWhole();
    const later = hub.asked.slice(before).filter(({ host }) => host === "store");
    expect(later.map(({ range }) => range)).toEqual(["bytes=300000-"]);
  });
});

describe("names", () => {
  it("of a folder win over the hub, and a folder has no revision", async () => {
    const folder = join(root, "folder");
    await mkdir(folder);
    expect(await find({}, {}, folder)).toBe(folder);
    expect(hub.asked).toEqual([]);
    expect((await refusal(find({ revision: "v1" }, {}, folder))).replace(root, "DIR")).toMatchInlineSnapshot(
      `"DIR/folder: is no name of a model on the hub, so revision v1 has no meaning; leave it out, or give ORG/NAME"`,
    );
    expect(await find({}, {}, "./no/such/folder")).toBe("./no/such/folder");
    const before = process.cwd();
    await mkdir(join(root, id), { recursive: true });
    process.chdir(root);
    try {
      expect(await find()).toBe(id);
      expect(await refusal(find({ revision: "v1" }))).toMatchInlineSnapshot(
        `"org/small-blip: is a folder here, so revision v1 has no meaning; leave it out, or give ORG/NAME"`,
      );
    } finally {
      process.chdir(before);
    }
    expect(hub.asked).toEqual([]);
  });

  it.each(["Salesforce/blip2-opt-2.7b", "bert-base-uncased", "a/b", "A_b/c.d"])(
    "%s can be on the hub",
    (name) => expect(isHubId(name)).toBe(true),
  );

  it.each([
    "",
    ".",
    "..",
    "../a",
    "a/..",
    "a/b/c",
    "/a",
    "a/",
    "./a",
    "a//b",
    "a\\b",
    "-a/b",
    "a--b",
    "a..b/c",
  ])("%j cannot", (name) => expect(isHubId(name)).toBe(false));
});
