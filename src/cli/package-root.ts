/** The package's own folder, from the sources and from dist/ alike: package.json, models/ and samples/ lie in it. */
export const packageRoot = new URL("../../", import.meta.url);
