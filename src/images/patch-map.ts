/** A value for each patch of a picture, as an image encoder cuts it: what heat maps are drawn from. */

export interface PatchGrid {
  readonly rows: number;
  readonly columns: number;
  /**
   * How much of the picture's width and of its height the patches cover, from the top left: below 1 where a patch
   * does not divide the size, and the rest is not looked at.
   */
  readonly covered: number;
}

export interface PatchMap extends PatchGrid {
  /** rows x columns, from the top left. */
  readonly values: Float32Array;
}
