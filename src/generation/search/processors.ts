/** Which processors a search applies to its scores, in the order of transformers. */
import {
  excludedAt,
  forcedAt,
  minimumNewTokens,
  noRepeatedNgrams,
  repetitionPenalty,
  temperatureWarper,
  topKWarper,
  topPWarper,
  withoutSequences,
  type LogitProcessor,
} from "./logits.js";
import type { SearchSettings } from "./search.js";

/** The processors of `settings`; those that only sampling has come last. */
export function processorsOf(settings: SearchSettings): readonly LogitProcessor[] {
  const { noRepeatNgramSize = 0, forbidden = [], sampling, endIds, numBeams } = settings;
  const { first, last, notFirst = [] } = settings;
  const processors: LogitProcessor[] = [];
  if (settings.repetitionPenalty !== 1) processors.push(repetitionPenalty(settings.repetitionPenalty));
  if (noRepeatNgramSize > 0) processors.push(noRepeatedNgrams(noRepeatNgramSize));
  if (forbidden.length > 0) processors.push(withoutSequences(forbidden));
  if (settings.minNewTokens > 0) processors.push(minimumNewTokens(settings.minNewTokens, endIds));
  if (first !== undefined) processors.push(forcedAt(0, [first]));
  if (last !== undefined) processors.push(forcedAt(settings.maxNewTokens - 1, last));
  // What is forced comes before what is excluded, and is not excluded itself.
  if (notFirst.length > 0) processors.push(excludedAt(first === undefined ? 0 : 1, notFirst));
  if (sampling !== undefined) {
    const { temperature, topK, topP } = sampling;
    // Beams need one id that is no end, or all of them might stop at once.
    const keep = numBeams > 1 ? endIds.length + 1 : 1;
    if (temperature !== 1) processors.push(temperatureWarper(temperature));
    if (topK > 0) processors.push(topKWarper(Math.max(topK, keep)));
    if (topP < 1) processors.push(topPWarper(topP, keep));
  }
  return processors;
}
