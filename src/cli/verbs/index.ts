/** The verbs, in the order of the help. Each is one file that loads what it works with inside its `run`. */
import type { Verb } from "../verb.js";

export const verbs: { readonly [name: string]: () => Promise<Verb> } = {
  caption: async () => (await import("./caption.js")).caption,
  ask: async () => (await import("./ask.js")).ask,
  chat: async () => (await import("./chat.js")).chat,
  match: async () => (await import("./match.js")).match,
  attend: async () => (await import("./attend.js")).attend,
  scenes: async () => (await import("./scenes.js")).scenes,
  train: async () => (await import("./train.js")).train,
  evaluate: async () => (await import("./evaluate.js")).evaluate,
  convert: async () => (await import("./convert.js")).convert,
  demo: async () => (await import("./demo.js")).demo,
  doctor: async () => (await import("./doctor.js")).doctor,
};
