/** The faults of hubs, each over a hub on this machine. */
import { mkdtemp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { findModel } from "../../src/hub/hub.js";
import { LoopbackHub } from "../../test/checkpoints/loopback-hub.js";
import { modelId, smallFiles, smallModel } from "./hub-answers.js";
import { hubFaults, patienceFor } from "./hub-faults.js";
import type { Kind } from "./trial.js";

export const hub: Kind = {
  name: "hub",
  title: "misbehaving hubs",
  rule: "A hub on this machine that does one thing wrong (listed in `bench/robustness/hub-faults.ts`). Right: the model arrives whole all the same, where that is possible; else a refusal that says what the hub did.",
  count: hubFaults.length,
  quick: hubFaults.length,
  limit: 120_000,
  prepare: (folder) =>
    Promise.resolve((_, index) => {
      const fault = hubFaults[index % hubFaults.length]!;
      return {
        form: fault.name,
        must: fault.ends === "right" ? "read" : "refuse",
        run: async () => {
          const files = fault.files?.() ?? smallFiles();
          const server = await new LoopbackHub([smallModel(files)]).start();
          server.interfere = fault.interference();
          const cache = join(await mkdtemp(join(folder, "hub-")), "hub");
          const settings = { endpoint: server.endpoint, cache, token: undefined, offline: false };
          const patience = { timeout: patienceFor(fault), retries: 2, pause: 1 };
          try {
            const found = await findModel(
              modelId,
              { revision: fault.revision, onNotice: () => undefined },
              { ...settings, ...patience },
            );
            for (const [name, bytes] of Object.entries(smallFiles()))
              if (name !== "README.md" && !(await readFile(join(found, name))).equals(bytes))
                return `${name} differs`;
            return undefined;
          } catch (error) {
            const { message } = error as Error;
            if (fault.ends !== "right" && !fault.ends.test(message)) return `says: ${message}`;
            throw error;
          } finally {
            await server.stop();
          }
        },
      };
    }),
};
