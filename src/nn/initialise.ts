/** Starting values of trainable parameters, a function of the seed and each parameter's name. */
import { elementCount, float32Tensor, type HostTensor } from "../host-tensor.js";
import type { DeclaredParameter, Initialiser } from "./parameters.js";

/** A value for each parameter. The draws of one name do not depend on which others exist. */
export function initialise(parameters: readonly DeclaredParameter[], seed: number): Map<string, HostTensor> {
  return new Map(
    parameters.map(({ name, shape, initialiser }) => [
      name,
      float32Tensor(draw(initialiser, shape, randomSource(`${seed} ${name}`)), shape),
    ]),
  );
}

function draw(initialiser: Initialiser, shape: readonly number[], random: () => number): Float32Array {
  const values = new Float32Array(elementCount(shape));
  switch (initialiser.kind) {
    case "zeros":
      return values;
    case "ones":
      return values.fill(1);
    case "constant":
      return values.fill(initialiser.value);
    case "uniform":
      return values.map(() => (2 * random() - 1) * initialiser.bound);
    case "normal":
      return values.map(() => initialiser.std * normalDeviate(random));
    case "rows": {
      const width = shape.at(-1)!;
      for (const row of initialiser.rows)
        for (let i = row * width; i < (row + 1) * width; i++)
          values[i] = initialiser.std * normalDeviate(random);
      return values;
    }
    case "sinusoids": {
      const width = shape.at(-1)!;
      return values.map(
        (_, index) =>
          initialiser.amplitude * sinusoid(Math.floor(index / width), index % width, width, initialiser.base),
      );
    }
    case "gridSinusoids": {
      const [positions, width] = shape.slice(-2) as [number, number];
      const [side, half] = [Math.sqrt(positions - 1), width / 2];
      return values.map((_, index) => {
        const [patch, column] = [Math.floor(index / width) - 1, index % width];
        if (patch < 0) return 0;
        const place = column < half ? Math.floor(patch / side) : patch % side;
        return initialiser.amplitude * sinusoid(place, column % half, half);
      });
    }
  }
}

/** Box and Muller's. */
function normalDeviate(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Column `column` of `width` of the code of a position (Vaswani et al. 2017, section 3.5). */
function sinusoid(position: number, column: number, width: number, base = 10000): number {
  const angle = position / base ** ((2 * Math.floor(column / 2)) / width);
  return column % 2 === 0 ? Math.sin(angle) : Math.cos(angle);
}

/** Uniform numbers in [0, 1) from a text seed: FNV-1a into the mulberry32 generator. */
function randomSource(text: string): () => number {
  let state = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), 1 | state);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  };
}
