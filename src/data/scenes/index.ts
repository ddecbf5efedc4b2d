/** The scenes world: rendered pictures with captions, questions and descriptions, deterministic by seed. */
export * from "./world.js";
export { Random } from "../../random.js";
export { makeScene } from "./scene.js";
export { COLOR_FILLS, renderScene, sceneSvg } from "./picture.js";
export { captionScene, MAX_CAPTION_WORDS } from "./captions.js";
export { countThings, parseCaption, type ParsedCaption, type ParsedThing } from "./parse-caption.js";
export { askScene, QUESTION_TYPES, type QuestionType, type SceneQuestion } from "./questions.js";
export { describe, MAX_DESCRIPTION_WORDS, textRecord, type TextRecord } from "./descriptions.js";
export { stateScene } from "./statements.js";
export { writeScenes, type ScenesWritten } from "./write.js";
export type { WriteScenesControl, WriteScenesOptions } from "./write-options.js";
