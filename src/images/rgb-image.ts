/** A decoded picture: rows from the top, three bytes (red, green, blue) a pixel. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** height x width x 3 */
  readonly data: Uint8Array;
}
