/** Does a native package load? Asked in a process of its own: what cannot be loaded may take its process along. */
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { promisify } from "node:util";

export type NativePackage<Facts> =
  ({ readonly ok: true; readonly version: string } & Facts) | { readonly ok: false; readonly error: string };

const resolver = createRequire(import.meta.url);

/**
 * Loads `name` in a child process, where `expression` makes an object of facts from the loaded `library`. Its member
 * `version` is the version; the others come back as they are.
 */
export async function probeNativePackage<Facts>(
  name: string,
  expression: string,
  signal: AbortSignal,
): Promise<NativePackage<Facts>> {
  let path: string;
  try {
    path = resolver.resolve(name);
  } catch {
    return { ok: false, error: `the package ${name} is not installed` };
  }
  const script = `const library = require(process.argv[1]); process.stdout.write(JSON.stringify(${expression}));`;
  try {
    const run = promisify(execFile);
    const { stdout } = await run(process.execPath, ["-e", script, path], { signal, timeout: 60_000 });
    return { ok: true, ...(JSON.parse(stdout) as { version: string } & Facts) };
  } catch (error) {
    signal.throwIfAborted();
    return { ok: false, error: `the package ${name} does not load: ${firstCause(error)}` };
  }
}

/** Node prints an uncaught error as "Error: reason" below the source line, and a crash as nothing but a signal. */
function firstCause(error: unknown): string {
  const { stderr = "", signal, message } = error as Error & { stderr?: string; signal?: string | null };
  const line = /^\w*Error: (.+)$/m.exec(stderr)?.[1] ?? /^\w*Error.*$/m.exec(stderr)?.[0];
  if (line !== undefined) return line;
  return signal ? `its process ended with ${signal}` : (message.split("\n")[0] ?? "for an unknown reason");
}
