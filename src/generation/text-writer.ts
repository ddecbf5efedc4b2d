/** From token ids to the text that callers get: without the end token, cut before a stop string. */
import type { TextTokenizer } from "../text/tokenizer.js";

export class TextWriter {
  /**
   * @param endIds ids that end a sequence and are not part of its text.
   * @param stops strings that end a text and are not part of it.
   * @param after where it occurs, the text is what stands behind it.
   */
  constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly endIds: readonly number[],
    private readonly stops: readonly string[],
    private readonly after?: string,
  ) {}

  /** Whether the text of `newIds` contains a stop string; absent where there are none. */
  get isStopped(): ((newIds: readonly number[]) => boolean) | undefined {
    if (this.stops.length === 0) return undefined;
    return (newIds) => {
      const text = this.decode(newIds);
      return this.stops.some((stop) => text.includes(stop));
    };
  }

  /** The finished text, without white space at its ends. */
  text(newIds: readonly number[]): string {
    return this.behind(this.beforeStop(this.decode(newIds))).trim();
  }

  /** As much of the text as stays the same whatever comes next: half a stop string may become a whole one. */
  settledText(newIds: readonly number[]): string {
    // Half a character, one of whose bytes has not come yet, reads as replacement characters.
    const text = this.beforeStop(this.decode(newIds)).replace(/\ufffd+$/, "");
    let held = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > held; length--) {
        if (text.endsWith(stop.slice(0, length))) held = length;
      }
    }
    const settled = text.slice(0, text.length - held);
    if (this.after !== undefined && !settled.includes(this.after)) return "";
    return this.behind(settled).trim();
  }

  private decode(newIds: readonly number[]): string {
    const { endIds } = this;
    return this.tokenizer.decode(newIds.filter((id, t) => t < newIds.length - 1 || !endIds.includes(id)));
  }

  private behind(text: string): string {
    const place = this.after === undefined ? -1 : text.indexOf(this.after);
    return place < 0 ? text : text.slice(place + this.after!.length);
  }

  private beforeStop(text: string): string {
    const places = this.stops.map((stop) => text.indexOf(stop)).filter((place) => place >= 0);
    return places.length === 0 ? text : text.slice(0, Math.min(...places));
  }
}
