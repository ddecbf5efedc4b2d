/** Cutting pictures into patches, shared by the vision transformers. */
import { ops, type Tensor } from "../engine/index.js";
import { InternalError } from "../errors.js";

/**
 * A convolution whose stride is its kernel, as one matrix product.
 * pixels: [B, C, S, S], weight: [D, C, p, p], bias: [D] -> [B, (S/p)^2, D], rows from the top left.
 */
export function patchify(pixels: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const [b, channels, height, width] = pixels.shape;
  const [d, , p] = weight.shape as readonly number[];
  const [rows, columns] = [Number(height) / p!, Number(width) / p!];
  if (!Number.isInteger(rows) || !Number.isInteger(columns)) {
    throw new InternalError(`patchify: a picture of ${height}x${width} does not divide into patches of ${p}`);
  }
  const grid = ops.reshape(pixels, [b!, channels!, rows, p!, columns, p!]);
  const patches = ops.reshape(ops.transpose(grid, [0, 2, 4, 1, 3, 5]), [
    b!,
    rows * columns,
    Number(channels) * p! * p!,
  ]);
  return ops.linear(patches, ops.reshape(weight, [d!, Number(channels) * p! * p!]), bias);
}
