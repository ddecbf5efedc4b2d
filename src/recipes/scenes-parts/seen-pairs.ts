/**
 * Which kinds of thing the training pictures show in which colours. Where a colour never goes with a kind, a
 * classifier learns from that alone to rule the pair out, and cannot name it when it meets it. So a question
 * about one of the two leaves out the answers that never go with the other.
 */
import type { SceneRecord, WorldDescription } from "../../data/scenes/read.js";
import { float32Tensor, type HostTensor } from "../../host-tensor.js";

/** Added to the logit of an answer that is left out. */
const leftOut = -1e4;

export class SeenPairs {
  private readonly unseen: readonly { readonly kind: number; readonly color: number }[];
  private readonly unseenText: RegExp | undefined;

  constructor(
    private readonly world: WorldDescription,
    scenes: Iterable<SceneRecord>,
  ) {
    const seen = new Set<string>();
    for (const { objects } of scenes) for (const { kind, color } of objects) seen.add(`${color} ${kind}`);
    this.unseen = world.kinds.flatMap((name, kind) =>
      world.colors.flatMap((other, color) => (seen.has(`${other} ${name}`) ? [] : [{ kind, color }])),
    );
    const texts = this.unseen.map(({ kind, color }) => {
      const name = world.kinds[kind]!;
      return `${world.colors[color]!} (?:${name}|${pluralOf(name)})`;
    });
    if (texts.length > 0) this.unseenText = new RegExp(`\\b(?:${texts.join("|")})\\b`);
  }

  /** Whether a text tells of a thing in a colour that it never has. */
  namesUnseen(text: string): boolean {
    return this.unseenText?.test(text) === true;
  }

  /**
   * For a colour's class (rows; 0 is nothing, then the colours) what is added to the logits of the kinds' classes:
   * float32 [colours + 1, kinds + 1].
   */
  kindsByColor(): HostTensor {
    const [rows, columns] = [this.world.colors.length + 1, this.world.kinds.length + 1];
    const values = new Float32Array(rows * columns);
    for (const { kind, color } of this.unseen) values[(color + 1) * columns + kind + 1] = leftOut;
    return float32Tensor(values, [rows, columns]);
  }

  /** The same for a kind's class: float32 [kinds + 1, colours + 1]. */
  colorsByKind(): HostTensor {
    const [rows, columns] = [this.world.kinds.length + 1, this.world.colors.length + 1];
    const values = new Float32Array(rows * columns);
    for (const { kind, color } of this.unseen) values[(kind + 1) * columns + color + 1] = leftOut;
    return float32Tensor(values, [rows, columns]);
  }
}

export function pluralOf(kind: string): string {
  return kind.endsWith("s") ? `${kind}es` : kind === "fish" ? kind : `${kind}s`;
}
