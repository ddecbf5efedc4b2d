/** How good captions of the scenes world are, measured against the exact scenes. */
import { countThings, parseCaption, type SceneObject } from "../data/scenes/index.js";
import type { SceneRecord } from "../data/scenes/read.js";

/** Shares from 0 to 1. A mention is one thing told of: "two blue fish" are two mentions. */
export interface CaptionQuality {
  readonly images: number;
  /** F1 of the kinds of things over all mentions of all captions: "a star and two fish" against three fish has two hits. */
  readonly kindF1: number;
  /** The same of kinds with their colours; a thing named without a colour hits nothing. */
  readonly colorF1: number;
  /** Of the mentions whose kind is right, the share whose colour is too. */
  readonly colorGivenKind: number;
  /** Captions that name the right background. */
  readonly background: number;
  /** Captions that tell of exactly as many things as there are. */
  readonly countExact: number;
  /** Captions in which everything is right: each thing with its colour and count, nothing more, and the background. */
  readonly captionExact: number;
  /**
   * As `colorF1`, over pairs of kind and colour that training never showed: those in the pictures against those in
   * the captions. Absent where the pictures show none.
   */
  readonly heldOutF1?: number;
  /** The share of such mentions that the captions make. */
  readonly heldOutRecall?: number;
}

/** What can be said of a thing. */
interface Pair {
  readonly kind: string;
  readonly color?: string | undefined;
}

export interface CaptionedScene {
  readonly caption: string;
  readonly scene: SceneRecord;
}

/** @param heldOut pairs that training never showed */
export function captionQuality(
  captions: readonly CaptionedScene[],
  heldOut: readonly Pair[] = [],
): CaptionQuality {
  const [kinds, pairs, unseen] = [new Hits(), new Hits(), new Hits()];
  const unseenKeys = new Set(heldOut.map(pairKey));
  const isUnseen = (thing: Pair): boolean => unseenKeys.has(pairKey(thing));
  let [background, countExact, captionExact] = [0, 0, 0];
  for (const { caption, scene } of captions) {
    const told = parseCaption(caption);
    // Records hold plain strings; counting compares them and nothing more.
    const there = countThings(scene.objects as readonly SceneObject[]);
    kinds.add(
      multiset(told.objects, ({ kind }) => kind),
      multiset(there, ({ kind }) => kind),
    );
    const exact = pairs.add(multiset(told.objects, pairKey), multiset(there, pairKey));
    unseen.add(multiset(told.objects.filter(isUnseen), pairKey), multiset(there.filter(isUnseen), pairKey));
    const isBackground = told.background === scene.background;
    background += Number(isBackground);
    countExact += Number(sum(told.objects.map(({ count }) => count)) === scene.objects.length);
    captionExact += Number(exact && isBackground);
  }
  const images = captions.length;
  return {
    images,
    kindF1: kinds.f1,
    colorF1: pairs.f1,
    colorGivenKind: share(pairs.hits, kinds.hits),
    background: share(background, images),
    countExact: share(countExact, images),
    captionExact: share(captionExact, images),
    ...(unseen.there > 0 && { heldOutF1: unseen.f1, heldOutRecall: share(unseen.hits, unseen.there) }),
  };
}

const pairKey = ({ kind, color = "" }: Pair): string => `${color} ${kind}`;

type Multiset = ReadonlyMap<string, number>;

function multiset<T extends { readonly count: number }>(
  things: readonly T[],
  key: (thing: T) => string,
): Multiset {
  const counts = new Map<string, number>();
  for (const thing of things) counts.set(key(thing), (counts.get(key(thing)) ?? 0) + thing.count);
  return counts;
}

/** Mentions of many captions against what there is, added up before they are divided (the micro average). */
class Hits {
  hits = 0;
  told = 0;
  there = 0;

  /** Returns whether the two are equal. */
  add(told: Multiset, there: Multiset): boolean {
    const hits = sum([...told].map(([key, count]) => Math.min(count, there.get(key) ?? 0)));
    const [toldCount, thereCount] = [sum(told.values()), sum(there.values())];
    this.hits += hits;
    this.told += toldCount;
    this.there += thereCount;
    return hits === toldCount && hits === thereCount;
  }

  get f1(): number {
    return share(2 * this.hits, this.told + this.there);
  }
}

const sum = (counts: Iterable<number>): number => [...counts].reduce((total, count) => total + count, 0);

/** Nothing of nothing counts as nothing right. */
const share = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
