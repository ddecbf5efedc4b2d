/**
 * Rounding of matrices to 8 and 4 bits, a few rows at a time, in the layouts of `QuantisedMatrix`.
 * Shapes: N rows (outputs), K columns, R rows at hand.
 */

/** Columns that share a scale in 4 bits. Smaller blocks are more exact, and each costs 4 bytes. */
export const int4Block = 64;

/** Side of the squares in which a matrix is transposed. */
const tile = 64;

/** Collects an int8 matrix: one scale per row, the largest value at 127. */
export class Int8Matrix {
  /** [K, N] */
  readonly values: Int8Array<ArrayBuffer>;
  readonly scales: Float32Array<ArrayBuffer>;
  private row = 0;

  constructor(
    private readonly n: number,
    private readonly k: number,
  ) {
    this.values = new Int8Array(n * k);
    this.scales = new Float32Array(n);
  }

  /** rows: [R, K], the next ones. Returns false if a value is not finite. */
  add(rows: Float32Array): boolean {
    const { n, k, values, scales } = this;
    const count = rows.length / k;
    const rounded = new Int8Array(rows.length);
    for (let r = 0; r < count; r++) {
      const [from, to] = [r * k, (r + 1) * k];
      let largest = 0;
      for (let i = from; i < to; i++) {
        const size = Math.abs(rows[i]!);
        if (!Number.isFinite(size)) return false;
        if (size > largest) largest = size;
      }
      const scale = Math.fround(largest / 127);
      const inverse = scale === 0 ? 0 : 1 / scale;
      scales[this.row + r] = scale;
      for (let i = from; i < to; i++) {
        // Positive before it is cut, so that cutting rounds down.
        rounded[i] = ((rows[i]! * inverse + 128.5) | 0) - 128;
      }
    }
    // Tile by tile, as both sides of the transposition should stay in the cache.
    for (let r0 = 0; r0 < count; r0 += tile) {
      const r1 = Math.min(r0 + tile, count);
      for (let i0 = 0; i0 < k; i0 += tile) {
        const i1 = Math.min(i0 + tile, k);
        for (let i = i0; i < i1; i++) {
          const column = i * n + this.row;
          for (let r = r0; r < r1; r++) values[column + r] = rounded[r * k + i]!;
        }
      }
    }
    this.row += count;
    return true;
  }
}

/**
 * Collects an int4 matrix. In each block the value furthest from zero becomes -8, the end of the range that
 * has one step more; so the scale may be negative.
 */
export class Int4Matrix {
  /** [N, blocks, int4Block / 2]; what lies beyond K is zero. */
  readonly values: Uint8Array<ArrayBuffer>;
  /** [N, blocks] */
  readonly scales: Float32Array<ArrayBuffer>;
  readonly blocks: number;
  private row = 0;

  constructor(
    n: number,
    private readonly k: number,
  ) {
    this.blocks = Math.ceil(k / int4Block);
    this.values = new Uint8Array((n * this.blocks * int4Block) / 2);
    this.scales = new Float32Array(n * this.blocks);
  }

  /** rows: [R, K], the next ones. Returns false if a value is not finite. */
  add(rows: Float32Array): boolean {
    const { k, blocks, values, scales } = this;
    const count = rows.length / k;
    for (let r = 0; r < count; r++) {
      const start = r * k;
      for (let b = 0; b < blocks; b++) {
        const from = start + b * int4Block;
        const to = Math.min(from + int4Block, start + k);
        let [furthest, largest] = [0, 0];
        for (let i = from; i < to; i++) {
          const value = rows[i]!;
          const size = Math.abs(value);
          if (!Number.isFinite(size)) return false;
          if (size > largest) {
            furthest = value;
            largest = size;
          }
        }
        const block = (this.row + r) * blocks + b;
        const scale = Math.fround(furthest / -8);
        const inverse = scale === 0 ? 0 : 1 / scale;
        scales[block] = scale;
        let byte = (block * int4Block) / 2;
        for (let i = from; i < to; i += 2) {
          const low = (rows[i]! * inverse + 8.5) | 0;
          const high = i + 1 < to ? (rows[i + 1]! * inverse + 8.5) | 0 : 8;
          values[byte++] = (low > 15 ? 15 : low) | ((high > 15 ? 15 : high) << 4);
        }
      }
    }
    this.row += count;
    return true;
  }
}
