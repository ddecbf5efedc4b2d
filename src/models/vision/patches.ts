/** Cutting pictures into patches, shared by the vision transformers. */
import { ops, type Tensor } from "../../engine/index.js";
import { InternalError } from "../../errors.js";

/** Patches along one side of a picture. What is left over at the right and at the bottom is not looked at. */
export function gridSide({
  image_size: side,
  patch_size: patch,
}: {
  readonly image_size: number;
  readonly patch_size: number;
}): number {
  return Math.floor(side / patch);
}

/**
 * A convolution whose stride is its kernel, as one matrix product.
 * pixels: [B, C, S, S], weight: [D, C, p, p], bias: [D] -> [B, floor(S/p)^2, D], rows from the top left.
 */
export function patchify(pixels: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const [b, channels, height, width] = pixels.shape;
  const [d, , p] = weight.shape as readonly number[];
  const [rows, columns] = [Math.floor(Number(height) / p!), Math.floor(Number(width) / p!)];
  if (!(rows > 0 && columns > 0)) {
    throw new InternalError(`patchify: a picture of ${height}x${width} has no patch of ${p}`);
  }
  const whole = [rows * p!, columns * p!].reduce(
    (x, size, i) => (x.shape[2 + i] === size ? x : ops.slice(x, 2 + i, 0, size)),
    pixels,
  );
  const grid = ops.reshape(whole, [b!, channels!, rows, p!, columns, p!]);
  const patches = ops.reshape(ops.transpose(grid, [0, 2, 4, 1, 3, 5]), [
    b!,
    rows * columns,
    Number(channels) * p! * p!,
  ]);
  return ops.linear(patches, ops.reshape(weight, [d!, Number(channels) * p! * p!]), bias);
}
