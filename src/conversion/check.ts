/** Whether a planned folder holds exactly the weights of its class, before anything is written. */
import type { ConversionPlan } from "./plan.js";

/**
 * Declares the model of the plan's config and compares. Throws a `UserError` that names every missing, unexpected and
 * misshapen tensor. Classes that this package does not build pass.
 */
export async function checkConversion(plan: ConversionPlan, where: string): Promise<void> {
  const { architecture, config, tensors } = plan;
  const { checkTensors } = await import("../checkpoints/model-folder.js");
  const { Parameters } = await import("../nn/parameters.js");
  const parameters = new Parameters(() => false);
  if (architecture === "Blip2ForConditionalGeneration") {
    const { blip2Config, buildBlip2, unreadTensors } = await import("../models/blip-2.js");
    const checked = blip2Config(config, where);
    buildBlip2(checked, parameters, tensors);
    checkTensors(parameters.shapes, tensors, where, { ignored: unreadTensors(checked) });
  } else if (architecture === "Blip2ForImageTextRetrieval") {
    const { FirstStage } = await import("../models/blip-2-bridge.js");
    const { qFormerConfigSchema } = await import("../models/q-former.js");
    const { parseVisionConfig, bridgeNormEpsilon, visionEncoder } =
      await import("../models/vision/vision-encoder.js");
    const vision = parseVisionConfig(config["vision_config"] ?? {}, where);
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
    });
  }
}
