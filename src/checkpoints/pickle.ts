/**
 * Reads a pickle as data. Python's own reader is a machine that imports and calls what the file names; this one
 * builds lists, dictionaries, texts and numbers, and knows a closed list of names, each of which stands for a function of
 * ours or for nothing at all. Every other opcode and name is refused, with the byte at which it stands.
 *
 * The opcodes are those that torch writes with protocols 2 to 4 (https://docs.python.org/3/library/pickletools.html).
 */
import { UserError } from "../errors.js";
import { quoted } from "../quoted.js";

/** What a name (`module.attribute`) in a pickle stands for. */
export type PickleName =
  /** Something to be passed on, such as a storage class. */
  | { readonly kind: "value"; readonly value: unknown }
  /** Something that is called; `call` is a function of this package and throws `UserError` for wrong arguments. */
  | { readonly kind: "function"; readonly call: (args: readonly unknown[], at: string) => unknown }
  /** Something that is never called: whatever is built with it becomes an `Inert`. */
  | { readonly kind: "inert" };

export interface PickleRules {
  /** The meaning of a name, or nothing if it is not allowed. */
  readonly name: (name: string) => PickleName | undefined;
  /** What stands behind a persistent id. Throws `UserError`. */
  readonly persistent: (id: unknown, at: string) => unknown;
}

export class Tuple {
  constructor(readonly items: readonly unknown[]) {}
}

/** A place-holder for an object of a foreign class. Nothing of the object is kept but where its class was named. */
class Inert {
  constructor(
    readonly name: string,
    readonly offset: number,
  ) {}
}

class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: readonly unknown[], at: string) => unknown,
  ) {}
}

/** The pickle is cut off. The reader of a stream tries again with more bytes. */
export class PickleCutOff extends UserError {}

/** Marks a place on the stack. */
const mark = Symbol("mark");

/** Far above what a checkpoint of thousands of tensors needs; bounds time and memory. */
const mostOpcodes = 1_000_000;
const longestName = 256;
/** A Python integer of more bytes is no size, offset or count. The magic number of old files has 10. */
const longestInteger = 16;

/** Opcodes that exist but are refused, so that messages can name them. */
const refusedOpcodes: Readonly<Record<number, string>> = {
  0x30: "POP",
  0x31: "POP_MARK",
  0x32: "DUP",
  0x46: "FLOAT",
  0x49: "INT",
  0x4c: "LONG",
  0x50: "PERSID",
  0x53: "STRING",
  0x54: "BINSTRING",
  0x56: "UNICODE",
  0x64: "DICT",
  0x67: "GET",
  0x69: "INST",
  0x6c: "LIST",
  0x6f: "OBJ",
  0x70: "PUT",
  0x82: "EXT1",
  0x83: "EXT2",
  0x84: "EXT4",
  0x96: "BYTEARRAY8",
  0x97: "NEXT_BUFFER",
  0x98: "READONLY_BUFFER",
};

/**
 * The value of the pickle that starts at byte `start`, and the byte after its end. Lists are arrays, tuples `Tuple`,
 * dictionaries `Map`, sets `Set`, bytes `Uint8Array`, integers numbers, or bigints where they must be.
 *
 * Throws `PickleCutOff` where the bytes end too early, and `UserError` for everything that is not allowed. `where` names the
 * file in messages.
 */
export function readPickle(
  bytes: Uint8Array,
  where: string,
  rules: PickleRules,
  start = 0,
): { readonly value: unknown; readonly end: number } {
  return new Reader(bytes, where, rules, start).read();
}

class Reader {
  private readonly view: DataView;
  private readonly stack: unknown[] = [];
  private readonly memo = new Map<number, unknown>();
  /** Where the opcode at hand stands. */
  private opcodeAt = 0;

  constructor(
    private readonly bytes: Uint8Array,
    private readonly where: string,
    private readonly rules: PickleRules,
    private position: number,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  read(): { readonly value: unknown; readonly end: number } {
    for (let count = 0; count < mostOpcodes; count++) {
      this.opcodeAt = this.position;
      const opcode = this.bytes[this.take(1)]!;
      if (opcode !== 0x2e) {
        this.step(opcode);
        continue;
      }
      const value = this.pop();
      if (this.stack.length > 0)
        throw this.wrong(`STOP comes while ${this.stack.length} more values are on the stack`);
      return { value, end: this.position };
    }
    throw this.wrong(`it has more than ${mostOpcodes} opcodes`);
  }

  private step(opcode: number): void {
    const { stack } = this;
    switch (opcode) {
      case 0x80: {
        const version = this.bytes[this.take(1)]!;
        if (version < 2 || version > 5)
          throw this.wrong(`pickle protocol ${version} is not supported (2 to 5 are)`);
        return;
      }
      case 0x95: // FRAME
        this.take(8);
        return;
      case 0x28: // MARK
        stack.push(mark);
        return;
      case 0x4e: // NONE
        stack.push(null);
        return;
      case 0x88: // NEWTRUE
        stack.push(true);
        return;
      case 0x89: // NEWFALSE
        stack.push(false);
        return;
      case 0x4b: // BININT1
        stack.push(this.unsigned(1));
        return;
      case 0x4d: // BININT2
        stack.push(this.unsigned(2));
        return;
      case 0x4a: // BININT
        stack.push(this.view.getInt32(this.take(4), true));
        return;
      case 0x8a: // LONG1
        stack.push(this.integer(this.unsigned(1)));
        return;
      case 0x8b: // LONG4
        stack.push(this.integer(this.unsigned(4)));
        return;
      case 0x47: // BINFLOAT
        stack.push(this.view.getFloat64(this.take(8), false));
        return;
      case 0x8c: // SHORT_BINUNICODE
      case 0x58: // BINUNICODE
      case 0x8d: // BINUNICODE8
        stack.push(this.text(this.unsigned(opcode === 0x8c ? 1 : opcode === 0x58 ? 4 : 8)));
        return;
      case 0x55: // SHORT_BINSTRING, which Python 2 wrote
        stack.push(this.text(this.unsigned(1)));
        return;
      case 0x43: // SHORT_BINBYTES
      case 0x42: // BINBYTES
      case 0x8e: {
        // BINBYTES8
        const length = this.unsigned(opcode === 0x43 ? 1 : opcode === 0x42 ? 4 : 8);
        const from = this.take(length);
        stack.push(this.bytes.slice(from, from + length));
        return;
      }
      case 0x5d: // EMPTY_LIST
        stack.push([]);
        return;
      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        return;
      case 0x8f: // EMPTY_SET
        stack.push(new Set());
        return;
      case 0x29: // EMPTY_TUPLE
        stack.push(new Tuple([]));
        return;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        stack.push(new Tuple(this.popSeveral(opcode - 0x84)));
        return;
      case 0x74: // TUPLE
        stack.push(new Tuple(this.popToMark()));
        return;
      case 0x91: // FROZENSET
        stack.push(new Set(this.popToMark()));
        return;
      case 0x61: {
        // APPEND
        const item = this.pop();
        this.append([item]);
        return;
      }
      case 0x65: // APPENDS
        this.append(this.popToMark());
        return;
      case 0x90: {
        // ADDITEMS
        const items = this.popToMark();
        const target = this.top();
        if (target instanceof Set) for (const item of items) target.add(item);
        else if (!(target instanceof Inert)) throw this.wrong("ADDITEMS needs a set");
        return;
      }
      case 0x73: {
        // SETITEM
        const pair = this.popSeveral(2);
        this.setItems(pair);
        return;
      }
      case 0x75: // SETITEMS
        this.setItems(this.popToMark());
        return;
      case 0x71: // BINPUT
        this.memo.set(this.unsigned(1), this.top());
        return;
      case 0x72: // LONG_BINPUT
        this.memo.set(this.unsigned(4), this.top());
        return;
      case 0x94: // MEMOIZE
        this.memo.set(this.memo.size, this.top());
        return;
      case 0x68: // BINGET
        stack.push(this.recall(this.unsigned(1)));
        return;
      case 0x6a: // LONG_BINGET
        stack.push(this.recall(this.unsigned(4)));
        return;
      case 0x63: {
        // GLOBAL
        const module = this.line();
        stack.push(this.name(`${module}.${this.line()}`));
        return;
      }
      case 0x93: {
        // STACK_GLOBAL
        const [module, attribute] = this.popSeveral(2);
        if (typeof module !== "string" || typeof attribute !== "string")
          throw this.wrong("STACK_GLOBAL needs two texts");
        stack.push(this.name(`${module}.${attribute}`));
        return;
      }
      case 0x51: // BINPERSID
        stack.push(this.rules.persistent(this.pop(), this.place()));
        return;
      case 0x52: // REDUCE
      case 0x81: {
        // NEWOBJ
        const [callee, args] = this.popSeveral(2);
        stack.push(this.call(callee, args, opcode === 0x52));
        return;
      }
      case 0x92: {
        // NEWOBJ_EX
        const [callee, args] = this.popSeveral(3);
        stack.push(this.call(callee, args, false));
        return;
      }
      case 0x62: {
        // BUILD: attributes of an object, such as `_metadata` of a state dictionary; none is needed
        this.pop();
        const target = this.top();
        if (!(target instanceof Map) && !(target instanceof Inert))
          throw this.wrong("BUILD is allowed on dictionaries only");
        return;
      }
      default: {
        const name = refusedOpcodes[opcode];
        const code = `0x${opcode.toString(16).padStart(2, "0")}`;
        throw this.wrong(
          name === undefined ? `${code} is no opcode` : `the opcode ${name} (${code}) is not allowed`,
        );
      }
    }
  }

  /** Moves on by `length` bytes and returns where they start. */
  private take(length: number): number {
    const from = this.position;
    if (length > this.bytes.length - from) {
      throw new PickleCutOff(
        `${this.place()}: the pickle is cut off: ${length} bytes are required, ${this.bytes.length - from} are left; fetch the file again`,
      );
    }
    this.position += length;
    return from;
  }

  private unsigned(size: 1 | 2 | 4 | 8): number {
    const at = this.take(size);
    if (size === 1) return this.bytes[at]!;
    if (size === 2) return this.view.getUint16(at, true);
    if (size === 4) return this.view.getUint32(at, true);
    const value = this.view.getBigUint64(at, true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.wrong(`a length of ${value} is too large`);
    return Number(value);
  }

  /** Two's complement, little-endian. */
  private integer(length: number): number | bigint {
    if (length > longestInteger)
      throw this.wrong(`an integer of ${length} bytes is too large (${longestInteger} are allowed)`);
    const from = this.take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[from + i]!);
    if (length > 0 && this.bytes[from + length - 1]! >= 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  private text(length: number): string {
    const from = this.take(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
        this.bytes.subarray(from, from + length),
      );
    } catch (cause) {
      throw this.wrong("a text is not UTF-8", cause);
    }
  }

  /** Up to the next line break, for GLOBAL. */
  private line(): string {
    const from = this.position;
    const window = this.bytes.subarray(from, from + longestName + 1);
    const length = window.indexOf(0x0a);
    if (length < 0) {
      if (window.length > longestName) throw this.wrong(`a name is longer than ${longestName} bytes`);
      this.take(window.length + 1);
    }
    const text = this.text(length);
    this.position++;
    return text;
  }

  private name(name: string): unknown {
    const meaning = this.rules.name(name);
    if (meaning === undefined) {
      throw this.wrong(
        `it names ${quoted(name)}, which is not allowed; a checkpoint of tensors needs no such name, and nothing was executed. ` +
          'If you trust the file, store its tensors alone: torch.save({"model": model.state_dict()}, ...)',
      );
    }
    if (meaning.kind === "value") return meaning.value;
    return meaning.kind === "inert" ? new Inert(name, this.opcodeAt) : new Callable(name, meaning.call);
  }

  private call(callee: unknown, args: unknown, isReduce: boolean): unknown {
    if (!(args instanceof Tuple)) throw this.wrong("the arguments of a call must be a tuple");
    if (callee instanceof Inert) return new Inert(callee.name, callee.offset);
    if (!(callee instanceof Callable)) throw this.wrong("what is called is no function");
    if (!isReduce) throw this.wrong(`${callee.name} is no class to make objects of`);
    return callee.call(args.items, `${this.place()}: ${callee.name}`);
  }

  private append(items: readonly unknown[]): void {
    const target = this.top();
    if (Array.isArray(target)) for (const item of items) target.push(item);
    else if (!(target instanceof Inert)) throw this.wrong("something is appended to what is no list");
  }

  private setItems(items: readonly unknown[]): void {
    const target = this.top();
    if (target instanceof Inert) return;
    if (!(target instanceof Map)) throw this.wrong("an item is set in what is no dictionary");
    if (items.length % 2 !== 0) throw this.wrong("a key comes without a value");
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (Array.isArray(key) || key instanceof Map || key instanceof Set)
        throw this.wrong("a dictionary has a key that Python could not have");
      if (target.has(key))
        throw this.wrong(
          `a dictionary has the key ${typeof key === "string" ? quoted(key) : typeof key} twice`,
        );
      target.set(key, items[i + 1]);
    }
  }

  private recall(index: number): unknown {
    if (!this.memo.has(index)) throw this.wrong(`entry ${index} of the memo is used before it is there`);
    return this.memo.get(index);
  }

  private top(): unknown {
    const value = this.stack.at(-1);
    if (this.stack.length === 0 || value === mark) throw this.wrong("a value is missing on the stack");
    return value;
  }

  private pop(): unknown {
    const value = this.top();
    this.stack.pop();
    return value;
  }

  private popSeveral(count: number): unknown[] {
    const values = Array.from({ length: count }, () => this.pop());
    return values.reverse();
  }

  private popToMark(): unknown[] {
    const at = this.stack.lastIndexOf(mark);
    if (at < 0) throw this.wrong("a mark is missing on the stack");
    const values = this.stack.splice(at);
    values.shift();
    return values;
  }

  private place(): string {
    return `${this.where}: byte ${this.opcodeAt} of the pickle`;
  }

  private wrong(why: string, cause?: unknown): UserError {
    return new UserError(`${this.place()}: ${why}`, { cause });
  }
}
