import { inspectMachine, type Findings, type Provider } from "../doctor/findings.js";
import { formatBytes } from "../progress.js";
import { defineVerb } from "../verb.js";

export const doctor = defineVerb({
  name: "doctor",
  summary: "say whether this machine and this installation can do the work",
  options: {},
  jsonKeys: {
    ok: "whether nothing essential is missing; the exit code is 1 otherwise",
    problems: "what is missing, one sentence each, with the remedy",
    package: "name, version, path",
    node: "version, required, ok",
    platform: "os, arch, release",
    cpus: "available (affinity and control groups counted), host, model",
    memory: "totalBytes, availableBytes, limitBytes (null without a control group's limit)",
    onnxruntime: "ok, version, providers (name; bundled, or needing libraries of their own), error",
    int8: 'ok, products ("signed": exact as the weights are held; "unsigned": they are shifted to unsigned bytes, as signed ones saturate), error',
    usageReports:
      "whether ONNX Runtime reports its use to its maker; off unless ORT_DISABLE_TELEMETRY says otherwise",
    sharp: "ok, version, libraries, error",
    models: "for each bundled model: name, type, complete, bytes, error",
    disk: "path, freeBytes of the file system that holds the working folder",
  },
  examples: ["blip2 doctor", "blip2 doctor --json"],

  async run({ output, signal }) {
    const findings = await inspectMachine(signal);
    output.record(findings, formatFindings(findings));
    return findings.ok ? undefined : 1;
  },
});

function formatFindings(found: Findings): string {
  const { node, platform, cpus, memory, onnxruntime, int8, usageReports, sharp, models, disk } = found;
  const limit = memory.limitBytes === null ? "" : `, limited to ${formatBytes(memory.limitBytes)}`;
  const rows: (readonly [ok: boolean, what: string, text: string])[] = [
    [true, found.package.name, `${found.package.version} in ${found.package.path}`],
    [node.ok, "node", `${node.version} (required: ${node.required})`],
    [true, "platform", `${platform.os} ${platform.arch}, ${platform.release}`],
    [true, "cpus", `${cpus.available} available of ${cpus.host} (${cpus.model})`],
    [
      true,
      "memory",
      `${formatBytes(memory.availableBytes)} available of ${formatBytes(memory.totalBytes)}${limit}`,
    ],
    [onnxruntime.ok, "onnxruntime", onnxruntime.ok ? describeRuntime(onnxruntime) : onnxruntime.error],
    [int8.ok, "int8", int8.ok ? describeBytes[int8.products] : int8.error],
    [
      true,
      "usage reports",
      usageReports
        ? "ONNX Runtime reports its use, as ORT_DISABLE_TELEMETRY in the environment asks for"
        : "off: ONNX Runtime writes and sends nothing about its use",
    ],
    [sharp.ok, "sharp", sharp.ok ? `${sharp.version}, libvips ${sharp.libraries["vips"]}` : sharp.error],
    ...models.map((model) => {
      const text = model.complete ? `${model.type}, ${formatBytes(model.bytes)}` : model.error;
      return [model.complete, `model ${model.name}`, text] as const;
    }),
    [true, "disk", `${formatBytes(disk.freeBytes)} free in ${disk.path}`],
  ];
  if (models.length === 0) rows.splice(-1, 0, [true, "models", "none bundled; name one with --model"]);
  const width = Math.max(...rows.map(([, what]) => what.length));
  const lines = rows.map(([ok, what, text]) => `${ok ? "ok  " : "FAIL"}  ${what.padEnd(width)}  ${text}`);
  const verdict = found.ok ? ["", "Everything essential is here."] : ["", ...found.problems];
  return [...lines, ...verdict].join("\n");
}

const describeBytes = {
  signed: "products of bytes are exact on this processor",
  unsigned:
    "products of signed bytes saturate here, as on x86 without VNNI; unsigned ones are taken, exact and slower",
} as const;

function describeRuntime({
  version,
  providers,
}: {
  version: string;
  providers: readonly Provider[];
}): string {
  const names = (bundled: boolean): string =>
    providers
      .filter((provider) => provider.bundled === bundled)
      .map(({ name }) => name)
      .join(", ");
  const separate = names(false);
  return `${version}, has ${names(true)}${separate === "" ? "" : ` (with libraries of their own: ${separate})`}`;
}
