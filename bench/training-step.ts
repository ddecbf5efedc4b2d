/**
 * `npm run bench -- training`: one training step, forward and backward without the update, ours against
 * PyTorch's. The work is that of reference/bench_training_step.py: 4 post-norm layers as in BERT, batch 8,
 * 64 tokens, width 768, loss the mean of squares, gradients of all weights. The two start from the same
 * numbers and take turns; medians are compared. `--size small` is batch 32 at width 192, ours alone.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { openSafetensors } from "../src/checkpoints/safetensors.js";
import { Device, gradients, input, ops, type Program, type Tensor } from "../src/engine/index.js";
import type { HostTensor } from "../src/host-tensor.js";
import { attention, splitHeads } from "../src/nn/attention.js";
import { initialise } from "../src/nn/initialise.js";
import { LayerNorm, Linear } from "../src/nn/layers.js";
import { Parameters, type Scope } from "../src/nn/parameters.js";
import { median, takeProfile } from "./runtime-profile.js";
import { TorchPeer } from "./torch-peer.js";

interface Size {
  readonly batch: number;
  readonly tokens: number;
  readonly width: number;
  readonly ffn: number;
  readonly heads: number;
  readonly layers: number;
}

const sizes: Readonly<Record<string, Size>> = {
  base: { batch: 8, tokens: 64, width: 768, ffn: 3072, heads: 12, layers: 4 },
  small: { batch: 32, tokens: 64, width: 192, ffn: 768, heads: 6, layers: 4 },
};

/** One post-norm layer. [B, T, D] -> [B, T, D]. */
class Layer {
  private readonly parts;
  private readonly heads: number;

  constructor(scope: Scope, { width, ffn, heads }: Size) {
    this.heads = heads;
    this.parts = {
      query: new Linear(scope.at("query"), width, width),
      key: new Linear(scope.at("key"), width, width),
      value: new Linear(scope.at("value"), width, width),
      output: new Linear(scope.at("output"), width, width),
      norm1: new LayerNorm(scope.at("norm1"), width, 1e-12),
      fc1: new Linear(scope.at("fc1"), width, ffn),
      fc2: new Linear(scope.at("fc2"), ffn, width),
      norm2: new LayerNorm(scope.at("norm2"), width, 1e-12),
    };
  }

  forward(x: Tensor): Tensor {
    const { query, key, value, output, norm1, fc1, fc2, norm2 } = this.parts;
    const [q, k, v] = [query, key, value].map((part) => splitHeads(part.forward(x), this.heads));
    const mixed = attention(q!, { key: k!, value: v! });
    const y = norm1.forward(ops.add(x, output.forward(mixed)));
    return norm2.forward(ops.add(y, fc2.forward(ops.gelu(fc1.forward(y)))));
  }
}

interface Step {
  readonly program: Program;
  /** Floating-point operations of the matrix products. */
  readonly flops: number;
}

/** Compiles the step; weights, input and gradients stay in the worker. */
async function compileStep(
  device: Device,
  size: Size,
  start: ReadonlyMap<string, HostTensor>,
): Promise<Step> {
  const { batch, tokens, width, ffn, layers } = size;
  const parameters = new Parameters(() => true);
  let x = input("x", "float32", [batch, tokens, width]);
  for (let i = 0; i < layers; i++) x = new Layer(parameters.scope().at("layer", i), size).forward(x);
  const loss = ops.reduceMean(ops.mul(x, x));

  const declared = parameters.trainable;
  const made = gradients(
    loss,
    declared.map(({ tensor }) => tensor),
  );
  const values = start.size > 0 ? start : initialise(declared, 0);
  for (const { name } of declared) await device.put({ [name]: values.get(name)! });
  await device.put({ x: values.get("x") ?? randomInput([batch, tokens, width]) });

  const gradientOf = (name: string): string => `gradient ${name}`;
  const program = await device.compile(
    { loss, ...Object.fromEntries(declared.map(({ name }, i) => [gradientOf(name), made[i]!])) },
    {
      residentInputs: { x: "x", ...Object.fromEntries(declared.map(({ name }) => [name, name])) },
      residentOutputs: Object.fromEntries(declared.map(({ name }) => [gradientOf(name), gradientOf(name)])),
      reuseResidents: true,
    },
  );
  const rows = batch * tokens;
  const forward = layers * (2 * rows * width * (4 * width + 2 * ffn) + 4 * rows * tokens * width);
  return { program, flops: 3 * forward };
}

function randomInput(dims: readonly number[]): HostTensor {
  const name = "x";
  const shape = { name, shape: dims, initialiser: { kind: "normal", std: 1 } } as const;
  return initialise([{ ...shape, trainable: false, tensor: input(name, "float32", dims) }], 1).get(name)!;
}

/** The weights and input that the peer made, by our names. */
async function startFrom(file: string): Promise<Map<string, HostTensor>> {
  const saved = await (await openSafetensors(file)).readAll();
  return new Map([...saved].map(([name, value]) => [name.replace(/^(weights|inputs)\//, ""), value]));
}

export async function trainingStep(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string", default: "base" },
      rounds: { type: "string", default: "9" },
      threads: { type: "string", default: "2" },
      precision: { type: "string", default: "fp32,bf16" },
      profile: { type: "boolean", default: false },
    },
  });
  const size = sizes[values.size];
  if (size === undefined) throw new Error(`--size is one of ${Object.keys(sizes).join(", ")}`);
  const [rounds, threads] = [Number(values.rounds), Number(values.threads)];
  const folder = mkdtempSync(path.join(tmpdir(), "blip2-bench-"));
  const profilePrefix = path.join(folder, "profile");
  const device = Device.open({ threads, ...(values.profile ? { profilePrefix } : {}) });

  const peers: {
    readonly label: string;
    readonly peer: TorchPeer;
    readonly seconds: number[];
    peak: number;
  }[] = [];
  const saved = path.join(folder, "start.safetensors");
  for (const precision of values.size === "base" && !values.profile ? values.precision.split(",") : []) {
    const peer = await TorchPeer.start([
      ...`--work postnorm --threads ${threads} --precision ${precision}`.split(" "),
      ...(peers.length === 0 ? ["--save", saved] : []),
    ]);
    if (typeof peer === "string") {
      console.log(`PyTorch does not take part: ${peer}`);
      break;
    }
    peers.push({ label: `PyTorch ${peer.versions["torch"]} ${precision}`, peer, seconds: [], peak: 0 });
  }

  try {
    const start = peers.length > 0 ? await startFrom(saved) : new Map<string, HostTensor>();
    const { program, flops } = await compileStep(device, size, start);
    start.clear();
    for (let i = 0; i < 3; i++) await program.run({});
    const ours: number[] = [];
    const cpu: number[] = [];
    let loss = 0;
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < 2; i++) {
        const [started, cpuBefore] = [performance.now(), process.cpuUsage()];
        const reply = await program.run({});
        ours.push((performance.now() - started) / 1000);
        const { user, system } = process.cpuUsage(cpuBefore);
        cpu.push((user + system) / 1e6);
        loss = Number(reply.loss!.data[0]);
      }
      for (const row of peers) {
        const answer = await row.peer.run(2);
        row.seconds.push(...answer.seconds);
        row.peak = answer.peak_rss_bytes;
        if (Math.abs(loss - answer.loss!) > 0.01 * loss) {
          throw new Error(`the loss is ${loss} here and ${answer.loss} in ${row.label}`);
        }
      }
    }
    const show = (label: string, seconds: readonly number[], peakBytes: number): void => {
      const [typical, best] = [median(seconds), Math.min(...seconds)];
      const cells = [
        label.padEnd(24),
        `${(typical * 1000).toFixed(1)} ms (best ${(best * 1000).toFixed(1)})`.padEnd(28),
        `${(flops / typical / 1e9).toFixed(0)} GFLOP/s`.padEnd(12),
        `${(typical / median(ours)).toFixed(2)} x our time`,
        `peak ${(peakBytes / 2 ** 20).toFixed(0)} MB`,
      ];
      console.log(cells.join("  "));
    };
    show("blip2 fp32", ours, process.resourceUsage().maxRSS * 1024);
    for (const { label, seconds, peak } of peers) show(label, seconds, peak);
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
