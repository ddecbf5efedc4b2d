import type { Reporter, SerializedError, TestModule, TestRunEndReason } from "vitest/node";

/**
 * Prints `N passed, N failed` (and `, N skipped` if any) as the very last line of a run, for people and
 * for scripts alike. A file that does not load and an error outside of every test count as failed.
 */
export class TotalsReporter implements Reporter {
  private totals: string | undefined;

  onInit(): void {
    // Written when the process ends, so that nothing another reporter prints can come after it.
    process.once("exit", () => {
      process.stdout.write(`${this.totals ?? formatTotals({ passed: 0, failed: 1, skipped: 0 })}\n`);
    });
  }

  onTestRunEnd(
    modules: readonly TestModule[],
    unhandledErrors: readonly SerializedError[],
    reason: TestRunEndReason,
  ): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        // Pending here means that the run ended, by crash or by Ctrl-C, before the test did.
        counts[state === "pending" ? "failed" : state] += 1;
      }
      counts.failed += module.errors().length;
      for (const suite of module.children.allSuites()) counts.failed += suite.errors().length;
    }
    if (reason === "failed" && counts.failed === 0) counts.failed = 1;
    this.totals = formatTotals(counts);
  }
}

function formatTotals(counts: { passed: number; failed: number; skipped: number }): string {
  const { passed, failed, skipped } = counts;
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}
