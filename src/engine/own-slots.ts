/** Slots that free themselves; see `OwnSlots`. */
import type { Device, OwnSlots, Slots } from "./device.js";

/** Work under way at once does not share slots, also not on several devices. */
let works = 0;

export function ownSlots(device: Pick<Device, "drop">): OwnSlots {
  const scope = `own.${works++}`;
  const taken = new Set<string>();
  const slot = (name: string): string => {
    const whole = `${scope}.${name}`;
    taken.add(whole);
    return whole;
  };
  const bind = (names: Iterable<string>, prefix?: string): Slots =>
    Object.fromEntries(
      [...names].map((name) => [prefix === undefined ? name : `${prefix}.${name}`, slot(name)]),
    );
  return {
    slot,
    bind,
    async [Symbol.asyncDispose]() {
      // A device that has ended has freed them already.
      if (taken.size > 0) await device.drop([...taken]).catch(() => undefined);
    },
  };
}
