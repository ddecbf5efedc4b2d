/** What an encoder-decoder language model answers from written descriptions. */
import type { DescribedScene } from "../../data/text-corpus.js";
import { input, integer, ops, type Device, type HostTensors, type Tensor } from "../../engine/index.js";
import type { EncoderDecoder } from "../../models/language/language-model.js";
import type { Parameters } from "../../nn/parameters.js";
import { ignoreIndex } from "../../objectives/cross-entropy.js";
import { textToTextLogits } from "../../objectives/text-to-text.js";
import { paddedIds, paddedRows } from "../../training/token-rows.js";
import { weightSlots } from "../../training/trainer.js";
import { answerMeasureOf, type AnswerMeasure } from "./answers.js";
import type { PairRow, PairWriter } from "./pair-writer.js";

/** What the encoder reads, word by word. */
export function plainInputs(model: EncoderDecoder): {
  readonly inputsEmbeds: Tensor;
  readonly encoderMask: Tensor;
} {
  return {
    inputsEmbeds: model.embed(input("ids", "int64", ["B", "S"])),
    encoderMask: input("mask", "int64", ["B", "S"]),
  };
}

export const plainFeeds = (rows: readonly PairRow[], pad: number): HostTensors =>
  paddedIds(
    rows.map(({ text }) => text),
    pad,
  );

/** What the decoder reads and learns. */
export function spokenInputs(): { readonly labels: Tensor; readonly said: Tensor } {
  return { labels: input("labels", "int64", ["B", "T"]), said: input("said", "int64", ["B", "T"]) };
}

export function spokenFeeds(rows: readonly PairRow[]): HostTensors {
  return {
    labels: paddedRows(
      rows.map(({ labels }) => labels),
      ignoreIndex,
    ),
    said: paddedRows(
      rows.map(({ labels, said = labels }) => said),
      ignoreIndex,
    ),
  };
}

/** Answers from written descriptions, measured with the weights in the device's slots. */
export async function encoderDecoderAnswerMeasure(
  device: Device,
  parameters: Parameters,
  model: EncoderDecoder,
  writer: PairWriter,
  test: readonly DescribedScene[],
): Promise<AnswerMeasure> {
  const batch = { ...plainInputs(model), ...spokenInputs() };
  const choice = ops.argmax(textToTextLogits(model, batch, writer.ids));
  const isWrong = ops.and(
    ops.lessOrEqual(integer(0), batch.labels),
    ops.not(ops.equal(choice, batch.labels)),
  );
  const wrong = ops.reduceSum(ops.cast(isWrong, "float32"), [1]);
  const program = await device.compile(
    { right: ops.where(ops.less(0, wrong), 0, 1) },
    { residentInputs: weightSlots(parameters) },
  );
  return answerMeasureOf(test, async (questions, signal) => {
    const rows = questions.map(({ description, question, answer }) =>
      writer.question(description, question, answer),
    );
    const { right } = await program.run(
      { ...plainFeeds(rows, writer.ids.pad), ...spokenFeeds(rows) },
      { signal },
    );
    return right!.data;
  });
}
