/**
 * Since 1.29 the runtime reports its use on Linux: it writes a device id and a database below the user's cache folder and looks up a
 * host. And it reads the process's command line by an expression that overflows the stack above some 14 kB. One variable, set before
 * it loads, turns both off.
 */
import { readFileSync } from "node:fs";

const variable = "ORT_DISABLE_TELEMETRY";

/** From so many bytes of command line on the runtime may not look at it, whoever wants it to. */
const longestCommandLine = 12_000;

/** Turns the reports off unless somebody has set the variable; to be called before the runtime loads. */
export function withoutUsageReports(): void {
  if (process.env[variable] === undefined || isLongCommandLine()) process.env[variable] = "1";
}

function isLongCommandLine(): boolean {
  if (process.platform !== "linux") return false;
  try {
    return readFileSync("/proc/self/cmdline").length > longestCommandLine;
  } catch {
    return true; // Not known: the safe way.
  }
}

/** Whether the runtime (1.30) reports in an environment: its own rules, as tried out value by value. */
export function usageReportsAreOn(
  env: Environment = process.env,
  platform: string = process.platform,
): boolean {
  const said = (name: string): string => (env[name] ?? "").trim().toLowerCase();
  if (platform !== "linux" || ["1", "true", "yes", "on", "y"].includes(said(variable))) return false;
  return buildServers.every((name) => ["", "0", "false", "no", "off"].includes(said(name)));
}

type Environment = { readonly [name: string]: string | undefined };

/** Variables that build servers set; the runtime keeps still there. */
export const buildServers: readonly string[] = [
  "CI",
  "TF_BUILD",
  "GITHUB_ACTIONS",
  "GITLAB_CI",
  "CIRCLECI",
  "TRAVIS",
  "JENKINS_URL",
  "CODEBUILD_BUILD_ID",
  "BUILDKITE",
  "TEAMCITY_VERSION",
  "APPVEYOR",
  "BITBUCKET_BUILD_NUMBER",
];
