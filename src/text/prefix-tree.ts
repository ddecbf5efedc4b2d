/** Words by their beginnings: finds those of a set that a text has at a place. */

/** Nodes are numbers; an edge is one UTF-16 unit. */
export class PrefixTree {
  private readonly edges = new Map<number, number>();
  private readonly values: (number | undefined)[] = [undefined];

  /** The later of two equal words counts. */
  add(word: string, value: number): void {
    let node = 0;
    for (let i = 0; i < word.length; i++) {
      const edge = node * 0x10000 + word.charCodeAt(i);
      let next = this.edges.get(edge);
      if (next === undefined) {
        next = this.values.length;
        this.values.push(undefined);
        this.edges.set(edge, next);
      }
      node = next;
    }
    this.values[node] = value;
  }

  /** Where the unit `unit` leads from `node` (0 is the start), or -1. */
  step(node: number, unit: number): number {
    return this.edges.get(node * 0x10000 + unit) ?? -1;
  }

  /** The node of all words that begin with `beginning`, or -1. */
  after(beginning: string): number {
    let node = 0;
    for (let i = 0; i < beginning.length && node >= 0; i++) node = this.step(node, beginning.charCodeAt(i));
    return node;
  }

  /** The value of the word that ends at `node`. */
  valueAt(node: number): number | undefined {
    return this.values[node];
  }

  /** The longest word that `text` has at `start`, read from the node `from`. */
  longest(
    text: string,
    start: number,
    from = 0,
  ): { readonly end: number; readonly value: number } | undefined {
    let found: { end: number; value: number } | undefined;
    let node = from;
    for (let i = start; i < text.length; i++) {
      node = this.step(node, text.charCodeAt(i));
      if (node < 0) break;
      const value = this.values[node];
      if (value !== undefined) found = { end: i + 1, value };
    }
    return found;
  }
}
