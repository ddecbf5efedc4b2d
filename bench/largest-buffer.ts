/** Which is the largest piece of memory that JavaScript asks for: constructors of this thread are watched while something runs. */

const watched = [
  "ArrayBuffer",
  "SharedArrayBuffer",
  "Float32Array",
  "Float64Array",
  "Uint8Array",
  "Uint16Array",
  "Uint32Array",
  "Int8Array",
  "Int16Array",
  "Int32Array",
  "BigInt64Array",
  "BigUint64Array",
] as const;
const allocators = ["alloc", "allocUnsafe", "allocUnsafeSlow", "concat"] as const;

export interface BufferWatch {
  /** Bytes of the largest buffer that was made so far. */
  readonly largest: number;
  stop(): void;
}

/**
 * Begins to watch `new` of buffers and typed arrays, `from` and `of` of these, and Node's own allocators. Copies by `slice` are as large
 * as what they are made of at most, so that no larger buffer goes unseen.
 */
export function watchBuffers(): BufferWatch {
  const place = globalThis as unknown as Record<
    string,
    new (...args: unknown[]) => ArrayBufferView | ArrayBuffer
  >;
  const before = watched.map((name) => [name, place[name]!] as const);
  const nodes = allocators.map((name) => [name, Buffer[name] as (...args: unknown[]) => Buffer] as const);
  const nodeBuffer = Buffer as unknown as Record<string, unknown>;
  let largest = 0;
  const note = (bytes: number): void => {
    largest = Math.max(largest, bytes);
  };
  for (const [name, original] of before) {
    place[name] = new Proxy(original, {
      construct(target, args: unknown[], newTarget) {
        const made = Reflect.construct(target, args, newTarget === place[name] ? target : newTarget);
        // A view of memory that is there already makes none.
        if (!(typeof args[0] === "object" && args[0] !== null && "maxByteLength" in args[0]))
          note(made.byteLength);
        return made;
      },
    });
  }
  for (const [name, original] of nodes) {
    nodeBuffer[name] = (...args: unknown[]): Buffer => {
      const made = original.apply(Buffer, args);
      note(made.byteLength);
      return made;
    };
  }
  return {
    get largest() {
      return largest;
    },
    stop() {
      for (const [name, original] of before) place[name] = original;
      for (const [name, original] of nodes) nodeBuffer[name] = original;
    },
  };
}
