/** Cases that PyTorch computed: test/golden/ops, written by reference/ops.py. */
import { readFile } from "node:fs/promises";
import { openSafetensors } from "../../src/checkpoints/safetensors.js";
import type { Tensor } from "../../src/engine/index.js";
import type { HostTensor } from "../../src/host-tensor.js";
import type { OpCase } from "./check-op.js";

const folder = new URL("../golden/ops/", import.meta.url);

interface Listing {
  readonly cases: readonly {
    readonly index: number;
    readonly attributes: Readonly<Record<string, unknown>>;
  }[];
}

type Build<A> = (tensors: Readonly<Record<string, Tensor>>, attributes: A) => Tensor;

/** The cases of one golden file, applied to `build`; `change` may alter a case or leave it out. */
export async function goldenCases<A>(op: string, build: Build<A>): Promise<readonly OpCase[]> {
  const { cases } = JSON.parse(await readFile(new URL(`${op}.json`, folder), "utf8")) as Listing;
  const file = await openSafetensors(new URL(`${op}.safetensors`, folder).pathname);
  const tensors = await file.readAll();
  return cases.map(({ index, attributes }) => {
    const below = (prefix: string): Record<string, HostTensor> => {
      const start = `${index}/${prefix}/`;
      const found = [...tensors].filter(([name]) => name.startsWith(start));
      return Object.fromEntries(found.map(([name, value]) => [name.slice(start.length), value]));
    };
    return {
      label: `${op} ${index} ${JSON.stringify(attributes)}`,
      inputs: below("inputs"),
      build: (given) => build(given, attributes as A),
      expected: {
        output: tensors.get(`${index}/outputs/y`)!,
        upstream: tensors.get(`${index}/upstream`)!,
        gradients: below("gradients"),
      },
    };
  });
}
