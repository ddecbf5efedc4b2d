/** The recipes, in the order in which they need each other. */
import type { Recipe } from "./recipe.js";

const recipes = {
  "language-model": async () => (await import("./scenes-parts/language-model.js")).languageModel,
  vision: async () => (await import("./scenes-parts/vision.js")).vision,
  stage1: async () => (await import("./stage-1.js")).stage1,
  stage2: async () => (await import("./stage-2/recipe.js")).stage2,
} as const satisfies Readonly<Record<string, () => Promise<unknown>>>;

export type RecipeName = keyof typeof recipes;

/** The recipe of a name. What a recipe takes is for its own schema to say. */
export const recipeOf = async (name: RecipeName): Promise<Recipe> => recipes[name]();
