/**
 * The accuracy of visual question answering (Antol et al. 2015): an answer counts as much as people agree with it.
 * Answers are first brought into one form. The rules of that form are those of the VQA evaluation, with one
 * difference: there, answers stay as they are where all ten people wrote the same, so that "2" is wrong where ten
 * wrote "two". Here they are always brought into it.
 */
import { UserError } from "../errors.js";

const numbers = "zero one two three four five six seven eight nine ten".split(" ");
/** "none" answers a question for a number. */
const digits = new Map([...numbers.map((word, value) => [word, String(value)] as const), ["none", "0"]]);
const articles = new Set(["a", "an", "the"]);

/**
 * Short forms that people write without their apostrophes. Those that are other words then ("its", "well", "were",
 * "shed") are not among them.
 */
const shortForms = [
  "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't isn't",
  "mightn't mightn't've might've mustn't must've needn't oughtn't shan't should've shouldn't shouldn't've",
  "wasn't weren't won't would've wouldn't wouldn't've not've",
  "he'd've he's i'm i've it'd it'd've it'll she'd've she's they'd they'd've they'll they're they've we'd've we've",
  "you'd you'd've you'll you're you've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've",
  "someone'll someone's something'd something'd've something'll that'd that'd've that's there'd there'd've there're",
  "there's how'd how'll how's what'll what're what's what've when's where'd where's where've who'd who'd've who'll",
  "who's who've why'll why're why's let's ma'am o'clock y'all y'all'd've y'all'll 'twas 'tis",
]
  .join(" ")
  .split(" ");
const withoutApostrophes = (word: string): string => word.replaceAll("'", "");
const fullSpelling = new Map(shortForms.map((form) => [withoutApostrophes(form), form]));

const marks = [...';/[]"{}()=+\\_-><@`,?!'];

/**
 * Marks vanish where a space stands beside one like them somewhere in the text, and where the text has a comma inside a number; elsewhere they
 * are spaces: "t-shirt" is two words, "no - red" too, "1,000" is one.
 */
function withoutMarks(text: string): string {
  const hasLongNumber = /\d,\d/.test(text);
  let left = text;
  for (const mark of marks) {
    const vanishes = hasLongNumber || text.includes(`${mark} `) || text.includes(` ${mark}`);
    left = left.replaceAll(mark, vanishes ? "" : " ");
  }
  // What is left of a full stop is that of a number, as in "1.5".
  return left.replace(/\.(?!\d)/g, "");
}

/** Lower case; no articles, marks and white space around words; numbers up to ten in digits; apostrophes where they belong. */
export function normalisedAnswer(answer: string): string {
  return withoutMarks(answer.replace(/\s+/g, " ").trim())
    .toLowerCase()
    .split(" ")
    .filter((word) => word !== "" && !articles.has(word))
    .map((word) => digits.get(word) ?? fullSpelling.get(withoutApostrophes(word)) ?? word)
    .join(" ");
}

/** Of so many others, this many must agree for full marks. */
const agreeing = 3;

/**
 * For each person in turn the answer is held against those of the others: a third for each who gives it, at most one; the
 * mean over the people. From 0 to 1, and the order of the people does not matter.
 */
export function vqaAccuracy(answer: string, people: readonly string[]): number {
  return accuracyAmong(normalisedAnswer(answer), people.map(normalisedAnswer));
}

/** The same, of normalised answers. */
function accuracyAmong(answer: string, people: readonly string[]): number {
  if (people.length < 2) throw new UserError("vqa: at least two people's answers are needed to judge one");
  const matches = people.filter((other) => other === answer).length;
  const credit = (others: number): number => Math.min(1, others / agreeing);
  // Who gives the answer leaves one less among the others.
  return (matches * credit(matches - 1) + (people.length - matches) * credit(matches)) / people.length;
}

/** A question of some type with what was answered. */
export interface JudgedAnswer {
  readonly type: string;
  readonly accuracy: number;
  readonly people: readonly string[];
}

class Mean {
  private sum = 0;
  private count = 0;

  add(value: number, weight = 1): void {
    this.sum += value;
    this.count += weight;
  }

  get value(): number {
    return this.count === 0 ? 0 : this.sum / this.count;
  }
}

/** The entry of `key`, made when it is first asked for. */
function entryOf<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const known = map.get(key) ?? make();
  map.set(key, known);
  return known;
}

const sorted = <V>(map: ReadonlyMap<string, V>): [string, V][] =>
  [...map].sort(([a], [b]) => (a < b ? -1 : Number(a > b)));

/** The mean accuracy of all, as `accuracy`, and by type of question, as `accuracy: TYPE`. */
export function accuracies(judged: readonly JudgedAnswer[]): Record<string, number> {
  const all = new Mean();
  const byType = new Map<string, Mean>();
  for (const { type, accuracy } of judged) {
    all.add(accuracy);
    entryOf(byType, type, () => new Mean()).add(accuracy);
  }
  return {
    accuracy: all.value,
    ...Object.fromEntries(sorted(byType).map(([type, mean]) => [`accuracy: ${type}`, mean.value])),
  };
}

/**
 * What whoever knows nothing but the type of a question could reach: the accuracy of the answer that does best on all
 * questions of a type, as `most frequent answer: TYPE`, and as `most frequent answer` over all questions. It is chosen on
 * the very questions that it is judged on.
 */
export function constantAccuracies(
  judged: readonly Pick<JudgedAnswer, "type" | "people">[],
): Record<string, number> {
  const byType = new Map<string, { count: number; sums: Map<string, number> }>();
  for (const { type, people } of judged) {
    const entry = entryOf(byType, type, () => ({ count: 0, sums: new Map<string, number>() }));
    entry.count++;
    const given = people.map(normalisedAnswer);
    for (const answer of new Set(given))
      entry.sums.set(answer, (entry.sums.get(answer) ?? 0) + accuracyAmong(answer, given));
  }
  const all = new Mean();
  const measures = sorted(byType).map(([type, { count, sums }]) => {
    const best = Math.max(...sums.values());
    all.add(best, count);
    return [`most frequent answer: ${type}`, best / count] as const;
  });
  return { "most frequent answer": all.value, ...Object.fromEntries(measures) };
}
