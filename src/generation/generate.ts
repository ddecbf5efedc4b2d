/** The loop of generation: prompts in, token ids out, one step of the language model per token. */
import { InterruptedError } from "../errors.js";
import { startSearch, type GeneratedSequence, type Search, type SearchSettings } from "./search.js";
import type { Prompt, Stepper } from "./stepper.js";

/**
 * What each prompt's processors count as seen. As in transformers this includes padding and the ids that stand
 * for soft positions: neither is a word, so it matters only to models that would write them.
 */
function seenIds({ ids, mask, embeddings, softId }: Prompt): number[][] {
  const [batch, length] = [mask.dims[0]!, ids.dims[1]!];
  const soft = softId === undefined || embeddings.dims[1] === 0 ? [] : [softId];
  const all = ids.data as BigInt64Array;
  return Array.from({ length: batch }, (_, b) => [
    ...soft,
    ...Array.from(all.subarray(b * length, (b + 1) * length), Number),
  ]);
}

/**
 * Runs a search for each prompt, all in one batch, and yields them after each token. The stepper is disposed
 * of at the end, also after errors and when the caller stops early.
 * Throws `InterruptedError` between two tokens once `signal` is aborted.
 */
export async function* generationSteps(
  stepper: Stepper,
  prompt: Prompt,
  settings: SearchSettings,
  signal?: AbortSignal,
): AsyncGenerator<readonly Search[], void, undefined> {
  await using running = stepper;
  const searches = seenIds(prompt).map((ids) => startSearch(settings, ids));
  // The searches that go on, and how many rows of the batch each has.
  let active = searches.map((search) => ({ search, count: 1 }));
  let logits = await running.prefill(prompt, signal);
  for (;;) {
    const parents: number[] = [];
    const tokens: number[] = [];
    const next: typeof active = [];
    let row = 0;
    for (const { search, count } of active) {
      const continuations = search.next(logits.slice(row, row + count));
      for (const { parent, token } of continuations) {
        parents.push(row + parent);
        tokens.push(token);
      }
      if (continuations.length > 0) next.push({ search, count: continuations.length });
      row += count;
    }
    active = next;
    yield searches;
    if (active.length === 0) return;
    if (signal?.aborted) throw new InterruptedError("stopped on request");
    // What has finished leaves the batch, and so costs nothing more.
    logits = await running.advance(parents, tokens, signal);
  }
}

/** For each prompt, its sequences, best first. */
export async function generateTokens(
  stepper: Stepper,
  prompt: Prompt,
  settings: SearchSettings,
  signal?: AbortSignal,
): Promise<(readonly GeneratedSequence[])[]> {
  let searches: readonly Search[] = [];
  for await (const step of generationSteps(stepper, prompt, settings, signal)) searches = step;
  return searches.map(({ results }) => results);
}
