/** Texts from a kvae bundle: `const sampler = await Sampler.load(atUrl("bundle")); await sampler.sample(5, 0)`. */

export { atUrl } from "./bundle.js";
export { BundleError, CheckFailed, ConfigError, DataError, KvaeError } from "./errors.js";
export { Sampler } from "./sampler.js";
