import { defineConfig } from "vitest/config";
import { TotalsReporter } from "./test/reporter.js";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Native sessions and the worker threads that own them want a process of their own.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ["default", new TotalsReporter()],
  },
});
