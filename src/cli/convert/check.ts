/** Whether a planned folder holds exactly the weights of its class, before anything is written. */
import type { ConversionPlan } from "../../checkpoints/convert/plan.js";

/**
 * Declares the model of the plan's config and compares. Throws a `UserError` that names every missing, unexpected and
 * misshapen tensor. Classes that this package does not build pass.
 */
export async function checkConversion(plan: ConversionPlan, where: string): Promise<void> {
  const { architecture, config, tensors } = plan;
  if (!["Blip2ForConditionalGeneration", "Blip2ForImageTextRetrieval"].includes(architecture)) return;
  const { Parameters } = await import("../../nn/parameters.js");
  const { FirstStage, SecondStage } = await import("../../models/blip-2-bridge.js");
  const { Opt, optConfigSchema } = await import("../../models/opt.js");
  const { qFormerConfigSchema } = await import("../../models/q-former.js");
  const { parseVisionConfig, bridgeNormEpsilon, visionEncoder } =
    await import("../../models/vision-encoder.js");
  const { checkTensors } = await import("../../checkpoints/model-folder.js");
  const parameters = new Parameters(() => false);
  const vision = parseVisionConfig(config["vision_config"] ?? {}, where);
  visionEncoder(vision, parameters);
  const qformer = qFormerConfigSchema.parse({
    ...(config["qformer_config"] as object | undefined),
    encoder_hidden_size: vision.hidden_size,
  });
  const bridge = {
    qformer,
    visionNormEpsilon: bridgeNormEpsilon(vision),
    queryCount: Number(config["num_query_tokens"] ?? 32),
  };
  if (architecture === "Blip2ForImageTextRetrieval") {
    const stage = { ...bridge, sharedSize: Number(config["image_text_hidden_size"] ?? 256) };
    const model = new FirstStage(stage, parameters.scope());
    void model;
    // Only training reads these, and Python's class drops them.
    checkTensors(parameters.shapes, tensors, where, {
      optional: (name) => name === "temp" || name.startsWith("cls."),
    });
    return;
  }
  const text = (config["text_config"] ?? {}) as Record<string, unknown>;
  const isOpt = (text["model_type"] ?? "opt") === "opt";
  const width = Number(text["hidden_size"] ?? text["d_model"]);
  const stage = new SecondStage({ ...bridge, languageSize: width }, parameters.scope());
  const model = isOpt ? new Opt(optConfigSchema.parse(text), parameters.scope("language_model")) : undefined;
  void [stage, model];
  checkTensors(parameters.shapes, tensors, where, {
    ignored: (name) => !isOpt && name.startsWith("language_model."),
  });
}
