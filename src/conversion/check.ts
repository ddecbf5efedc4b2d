/** Whether a planned folder holds the weights of its class, before anything is written. */
import type { ConversionPlan } from "./plan.js";

/**
 * Declares the model of the plan's config and compares. The plan comes back without tensors that the class does not have, which
 * then count as left out. Throws a `UserError` that names every missing and misshapen tensor. Classes that this package does not
 * build pass.
 */
export async function checkConversion(plan: ConversionPlan, where: string): Promise<ConversionPlan> {
  const { architecture, config, tensors } = plan;
  const { checkTensors, layersMustFit } = await import("../checkpoints/model-folder.js");
  const { Parameters } = await import("../nn/parameters.js");
  const parameters = new Parameters(() => false);
  if (architecture === "Blip2ForConditionalGeneration") {
    const { blip2Config, buildBlip2, unreadTensors } = await import("../models/blip-2.js");
    const checked = blip2Config(config, where);
    layersMustFit(checked, tensors, where);
    buildBlip2(checked, parameters, tensors);
    const ignored = unreadTensors(checked);
    checkTensors(parameters.shapes, tensors, where, { ignored, extra });
    return without(plan, (name) => !parameters.shapes.has(name) && !ignored(name));
  } else if (architecture === "Blip2ForImageTextRetrieval") {
    const { FirstStage } = await import("../models/blip-2-bridge.js");
    const { qFormerConfigSchema } = await import("../models/q-former.js");
    const { parseVisionConfig, bridgeNormEpsilon, visionEncoder } =
      await import("../models/vision/vision-encoder.js");
    const vision = parseVisionConfig(config["vision_config"] ?? {}, where);
    layersMustFit(config, tensors, where);
    visionEncoder(vision, parameters);
    const qformer = qFormerConfigSchema.parse({
      ...(config["qformer_config"] as object | undefined),
      encoder_hidden_size: vision.hidden_size,
    });
    const model = new FirstStage(
      {
        qformer,
        visionNormEpsilon: bridgeNormEpsilon(vision),
        queryCount: Number(config["num_query_tokens"] ?? 32),
        sharedSize: Number(config["image_text_hidden_size"] ?? 256),
      },
      parameters.scope(),
    );
    void model;
    // Only training reads these, and Python's class drops them.
    checkTensors(parameters.shapes, tensors, where, {
      optional: (name) => name === "temp" || name.startsWith("cls."),
      extra,
    });
    return without(plan, (name) => !parameters.shapes.has(name));
  }
  return plan;
}

/** What is left out is told with the result. */
const extra = (): void => undefined;

function without(plan: ConversionPlan, isExtra: (name: string) => boolean): ConversionPlan {
  const names = [...plan.tensors.keys()].filter(isExtra);
  if (names.length === 0) return plan;
  return {
    ...plan,
    tensors: new Map([...plan.tensors].filter(([name]) => !isExtra(name))),
    leftOut: [...plan.leftOut, ...names],
  };
}
