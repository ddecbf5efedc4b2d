/** The verbs, in the order of the help. Each is one file that loads what it works with inside its `run`. */
import type { Verb } from "../verb.js";

export const verbs: { readonly [name: string]: () => Promise<Verb> } = {
  scenes: async () => (await import("./scenes.js")).scenes,
  doctor: async () => (await import("./doctor.js")).doctor,
};
