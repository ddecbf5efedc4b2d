/** Where notices go when nobody listens for them. */

const warned = new Set<string>();

/** A warning of the process, once for each text, however many parts or models say it. */
export function warnOnce(notice: string): void {
  if (warned.has(notice)) return;
  warned.add(notice);
  process.emitWarning(notice);
}
