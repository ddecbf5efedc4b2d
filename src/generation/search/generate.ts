/** The loop of generation: prompts in, token ids out, one step of the language model per token. */
import { stopIf, UserError } from "../../errors.js";
import { BeamSearch } from "./beam.js";
import { ContrastiveSearch } from "./contrastive-search.js";
import { GreedySearch } from "./greedy.js";
import { SamplingSearch } from "./sampling.js";
import type { GeneratedSequence, Search, SearchSettings } from "./search.js";
import type { Prompt, Stepper } from "./stepper.js";

/**
 * What each prompt's processors count as seen. As in transformers this includes padding and the ids that stand
 * for soft positions: neither is a word, so it matters only to models that would write them.
 */
function seenIds({ ids, mask, embeddings, softId, decoderStartId }: Prompt): number[][] {
  const [batch, length] = [mask.dims[0]!, ids.dims[1]!];
  if (decoderStartId !== undefined) return Array.from({ length: batch }, () => [decoderStartId]);
  const soft = softId === undefined || embeddings.dims[1] === 0 ? [] : [softId];
  const all = ids.data as BigInt64Array;
  return Array.from({ length: batch }, (_, b) => [
    ...soft,
    ...Array.from(all.subarray(b * length, (b + 1) * length), Number),
  ]);
}

/** @param promptIds what processors count as seen. */
function startSearch(settings: SearchSettings, promptIds: readonly number[]): Search {
  const { numBeams, sampling, contrastive } = settings;
  if (numBeams > 1) return new BeamSearch(settings, promptIds);
  if (sampling !== undefined) return new SamplingSearch(settings, sampling, promptIds);
  if (contrastive !== undefined) return new ContrastiveSearch(settings, contrastive, promptIds);
  return new GreedySearch(settings, promptIds);
}

/** Settings of all prompts, or of each. */
export type SettingsOf = SearchSettings | readonly SearchSettings[];

/** How long the searches of a large batch keep the thread before they leave it to others, in milliseconds. */
const turn = 8;

/**
 * Runs a search for each prompt, all in one batch, and yields them after each token. The stepper is disposed
 * of at the end, also after errors and when the caller stops early.
 * Throws `InterruptedError` between two tokens once `signal` is aborted.
 */
export async function* generationSteps(
  stepper: Stepper,
  prompt: Prompt,
  settings: SettingsOf,
  signal?: AbortSignal,
): AsyncGenerator<readonly Search[], void, undefined> {
  await using running = stepper;
  const searches = seenIds(prompt).map((ids, b) =>
    startSearch("length" in settings ? settings[b]! : settings, ids),
  );
  // The searches that go on, and how many rows of the batch each has.
  let active = searches.map((search) => ({ search, count: 1 }));
  let logits = await running.prefill(prompt, signal);
  const [{ contrastive } = {}] = [settings].flat();
  if (contrastive !== undefined && running.states === undefined) {
    throw new UserError(
      "generate: penaltyAlpha: contrastive search needs hidden states, which this kind of language model does not yield; " +
        "leave it out",
    );
  }
  for (;;) {
    const parents: number[] = [];
    const tokens: number[] = [];
    const next: typeof active = [];
    let row = 0;
    let turnEnds = performance.now() + turn;
    for (const { search, count } of active) {
      if (performance.now() > turnEnds) {
        await new Promise((resolve) => setTimeout(resolve));
        turnEnds = performance.now() + turn;
      }
      const continuations = search.next(
        logits.slice(row, row + count),
        running.states?.slice(row, row + count),
      );
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
    stopIf(signal);
    // What has finished leaves the batch, and so costs nothing more.
    logits = await running.advance(parents, tokens, signal);
  }
}

/** For each prompt, its sequences, best first. */
export async function generateTokens(
  stepper: Stepper,
  prompt: Prompt,
  settings: SettingsOf,
  signal?: AbortSignal,
): Promise<(readonly GeneratedSequence[])[]> {
  let searches: readonly Search[] = [];
  for await (const step of generationSteps(stepper, prompt, settings, signal)) searches = step;
  return searches.map(({ results }) => results);
}
