/**
 * `npm run bench -- training`: a training step, forward and backward without the update, ours against PyTorch's.
 * Both sides start from the same numbers and take turns; medians are compared, and the losses must agree.
 * `--work postnorm` is 4 wide layers, `--work stage1` the bundled model's own first stage; both when not given, each
 * in a process of its own, so that peaks of memory are its own too.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { openSafetensors } from "../src/checkpoints/safetensors.js";
import { type Device, gradients, type HostTensors, type Program } from "../src/engine/index.js";
import { openDevice } from "../src/engine/node.js";
import type { HostTensor } from "../src/host-tensor.js";
import { initialise } from "../src/nn/initialise.js";
import { postNormWork } from "./post-norm-work.js";
import { median, takeProfile } from "./runtime-profile.js";
import { stage1Work } from "./stage-1-work.js";
import { TorchPeer } from "./torch-peer.js";
import type { Work } from "./work.js";

const works: Readonly<Record<string, () => Work>> = { postnorm: postNormWork, stage1: stage1Work };

/** Compiles the step; weights and gradients stay in the worker. */
async function compileStep(
  device: Device,
  work: Work,
  start: ReadonlyMap<string, HostTensor>,
): Promise<Program> {
  const { parameters, loss } = work;
  const made = gradients(
    loss,
    parameters.map(({ tensor }) => tensor),
  );
  for (const { name } of parameters) await device.put({ [name]: start.get(name)! }, { handOver: true });
  const gradientOf = (name: string): string => `gradient ${name}`;
  return device.compile(
    { loss, ...Object.fromEntries(parameters.map(({ name }, i) => [gradientOf(name), made[i]!])) },
    {
      residentInputs: Object.fromEntries(parameters.map(({ name }) => [name, name])),
      residentOutputs: Object.fromEntries(parameters.map(({ name }) => [gradientOf(name), gradientOf(name)])),
      reuseResidents: true,
    },
  );
}

/** The weights and inputs that the peer made, by our names. */
async function startFrom(file: string): Promise<Map<string, HostTensor>> {
  const saved = await (await openSafetensors(file)).readAll();
  return new Map([...saved].map(([name, value]) => [name.replace(/^(weights|inputs)\//, ""), value]));
}

/** The largest resident set of this process so far, in bytes. */
const ownPeak = (): number => process.resourceUsage().maxRSS * 1024;

const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MB`;

export async function trainingStep(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      work: { type: "string", default: "postnorm,stage1" },
      rounds: { type: "string", default: "9" },
      threads: { type: "string", default: "2" },
      precision: { type: "string", default: "fp32,bf16" },
      profile: { type: "boolean", default: false },
    },
  });
  const names = values.work.split(",");
  const unknown = names.find((name) => works[name] === undefined);
  if (unknown !== undefined) throw new Error(`--work is of ${Object.keys(works).join(", ")}, got ${unknown}`);
  if (names.length > 1) {
    for (const name of names) {
      const again = [...process.execArgv, process.argv[1]!, "training", ...args, "--work", name];
      const { status } = spawnSync(process.execPath, again, { stdio: "inherit" });
      if (status !== 0) throw new Error(`--work ${name} ended with ${status}`);
    }
    return;
  }
  const [rounds, threads] = [Number(values.rounds), Number(values.threads)];
  const folder = mkdtempSync(path.join(tmpdir(), "blip2-bench-"));
  const profilePrefix = path.join(folder, "profile");
  const device = openDevice({ threads, ...(values.profile ? { profilePrefix } : {}) });

  await device.put({});
  const startPeak = ownPeak();
  const work = works[names[0]!]!();
  console.log(work.title);

  const peers: {
    readonly label: string;
    readonly peer: TorchPeer;
    readonly seconds: number[];
    peak: number;
    startPeak: number;
  }[] = [];
  const saved = path.join(folder, "start.safetensors");
  for (const precision of values.profile ? [] : values.precision.split(",")) {
    const peer = await TorchPeer.start([
      ...work.peerArguments(folder),
      ...`--threads ${threads} --precision ${precision}`.split(" "),
      ...(peers.length === 0 ? ["--save", saved] : []),
    ]);
    if (typeof peer === "string") {
      console.log(`PyTorch does not take part: ${peer}`);
      break;
    }
    peers.push({
      label: `PyTorch ${peer.versions["torch"]} ${precision}`,
      peer,
      seconds: [],
      peak: 0,
      startPeak: 0,
    });
  }

  try {
    const start = peers.length > 0 ? await startFrom(saved) : initialise(work.parameters, 0);
    const made = work.inputs();
    const feeds: HostTensors = Object.fromEntries(
      Object.entries(made).map(([name, value]) => [name, start.get(name) ?? value]),
    );
    const program = await compileStep(device, work, start);
    for (let i = 0; i < 3; i++) await program.run(feeds);
    const ours: number[] = [];
    const cpu: number[] = [];
    let loss = 0;
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < 2; i++) {
        const [started, cpuBefore] = [performance.now(), process.cpuUsage()];
        const reply = await program.run(feeds);
        ours.push((performance.now() - started) / 1000);
        const { user, system } = process.cpuUsage(cpuBefore);
        cpu.push((user + system) / 1e6);
        loss = Number(reply.loss!.data[0]);
      }
      for (const row of peers) {
        const answer = await row.peer.run(2);
        row.seconds.push(...answer.seconds);
        row.peak = answer.peak_rss_bytes;
        row.startPeak = answer.start_rss_bytes;
        if (Math.abs(loss - answer.loss!) > 0.01 * loss) {
          throw new Error(`the loss is ${loss} here and ${answer.loss} in ${row.label}`);
        }
      }
    }
    const show = (label: string, seconds: readonly number[], peak: number, before: number): void => {
      const [typical, best] = [median(seconds), Math.min(...seconds)];
      const rate = work.flops === undefined ? "" : `, ${(work.flops / typical / 1e9).toFixed(0)} GFLOP/s`;
      const cells = [
        label.padEnd(24),
        `${(typical * 1000).toFixed(1)} ms (best ${(best * 1000).toFixed(1)}${rate})`.padEnd(42),
        `${(typical / median(ours)).toFixed(2)} x our time`,
        `peak ${megabytes(peak)}, ${megabytes(peak - before)} above its start`,
      ];
      console.log(cells.join("  "));
    };
    show("blip2 fp32", ours, ownPeak(), startPeak);
    for (const row of peers) show(row.label, row.seconds, row.peak, row.startPeak);
    console.log(`processor time of our step: ${(median(cpu) * 1000).toFixed(1)} ms`);
    if (values.profile) {
      await device.close();
      for (const { op, milliseconds, nodes } of takeProfile(profilePrefix)) {
        console.log(`${op.padEnd(26)} ${milliseconds.toFixed(2).padStart(8)} ms in ${nodes}`);
      }
    }
  } finally {
    for (const { peer } of peers) peer.close();
    await device.close();
    rmSync(folder, { recursive: true });
  }
}
