/**
 * Data as everything downstream sees them: samples by place, each as often as it is wanted. Shuffling by position is what makes a
 * training resume exactly, so there are no streams here.
 */
import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { ImageSource } from "../images/load-image.js";

export interface Dataset<Sample> {
  readonly length: number;
  /** The sample at a place from 0 to `length` - 1, the same each time. */
  at(place: number): Promise<Sample>;
}

/** One picture with what is said about it. */
export interface CaptionedPicture {
  /** As the data set names it. */
  readonly id: number | string;
  readonly image: ImageSource;
  /** Says in messages which picture it is: its path, or where it stands. */
  readonly name: string;
  /** At least one. */
  readonly captions: readonly string[];
  /** Sentences of one fact each, where they were asked for. */
  readonly statements?: readonly string[];
}

/** A list as a data set. */
export function datasetOf<Sample>(samples: readonly Sample[]): Dataset<Sample> {
  return {
    length: samples.length,
    at: (place) => Promise.resolve(samples[place]!),
  };
}

/** The samples at some places of another data set, in their order. */
export function samplesAt<Sample>(data: Dataset<Sample>, places: readonly number[]): Dataset<Sample> {
  return { length: places.length, at: (place) => data.at(places[place]!) };
}

/** The first samples; all where there are not more. */
export function firstOf<Sample>(data: Dataset<Sample>, limit: number | undefined): Dataset<Sample> {
  return limit === undefined || limit >= data.length
    ? data
    : { length: limit, at: (place) => data.at(place) };
}

/** All samples, one after the other. */
export async function* samplesOf<Sample>(data: Dataset<Sample>): AsyncGenerator<Sample, void, undefined> {
  for (let place = 0; place < data.length; place++) yield await data.at(place);
}

/** The samples from one place to another. */
export function sliceOf<Sample>(data: Dataset<Sample>, from: number, to: number): Promise<Sample[]> {
  const end = Math.min(to, data.length);
  return Promise.all(Array.from({ length: Math.max(0, end - from) }, (_, i) => data.at(from + i)));
}

/** Tells one content of a picture from another: of a file its size and time, of anything else its bytes. */
export async function stampOf(image: ImageSource): Promise<string> {
  if (typeof image === "string" || image instanceof URL) {
    const { size, mtimeMs } = await stat(typeof image === "string" ? image : fileURLToPath(image));
    return `${size} ${mtimeMs}`;
  }
  const { data, shape } =
    image instanceof Uint8Array
      ? { data: image, shape: "" }
      : { data: image.data, shape: `${image.width}x${image.height}x${image.channels} ` };
  return shape + createHash("sha256").update(data).digest("hex");
}
