/** What a decoder-only language model answers from written descriptions. */
import type { DescribedScene } from "../../data/text-corpus.js";
import { input, integer, ops, type Device, type Tensor } from "../../engine/index.js";
import type { DecoderOnly } from "../../models/language/language-model.js";
import type { Parameters } from "../../nn/parameters.js";
import { paddedBatch } from "../../training/token-rows.js";
import { weightSlots } from "../../training/trainer.js";
import { answerMeasureOf, type AnswerMeasure } from "./answers.js";
import type { SequenceWriter } from "./sequence-writer.js";

/** Answers from written descriptions, measured with the weights in the device's slots. */
export async function decoderAnswerMeasure(
  device: Device,
  parameters: Parameters,
  model: DecoderOnly,
  writer: SequenceWriter,
  test: readonly DescribedScene[],
): Promise<AnswerMeasure> {
  const ids = input("ids", "int64", ["B", "T"]);
  const mask = input("mask", "int64", ["B", "T"]);
  const labels = input("labels", "int64", ["B", "T"]);
  const program = await device.compile(
    { right: answeredRight(model, ids, mask, labels) },
    { residentInputs: weightSlots(parameters) },
  );
  return answerMeasureOf(test, async (questions, signal) => {
    const rows = questions.map((asked) => writer.question(asked.description, asked.question, asked.answer));
    const { right } = await program.run(paddedBatch(rows, writer.pad), { signal });
    return right!.data;
  });
}

/** 1 for each row all of whose labelled tokens are the model's first choice, else 0. -> float32 [B]. */
function answeredRight(model: DecoderOnly, ids: Tensor, mask: Tensor, labels: Tensor): Tensor {
  const { lastHiddenState } = model.forward({ inputsEmbeds: model.embed(ids), attentionMask: mask });
  const length = ops.addDims("T", -1);
  const choice = ops.argmax(model.logits(ops.slice(lastHiddenState, 1, 0, length)));
  const wanted = ops.slice(labels, 1, 1, length);
  const isWrong = ops.and(ops.lessOrEqual(integer(0), wanted), ops.not(ops.equal(choice, wanted)));
  const wrong = ops.reduceSum(ops.cast(isWrong, "float32"), [1]);
  return ops.where(ops.less(0, wrong), 0, 1);
}
