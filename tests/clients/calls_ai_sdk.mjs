// Calls of the provider for the AI SDK (`@runware/ai-sdk-provider` 2.0.0), with its image model as the AI SDK calls it.

import { PICTURE, check, raises, report, setting } from "./calls.mjs";
import { createRunware } from "@runware/ai-sdk-provider";

const provider = (settings = {}) =>
  createRunware({ apiKey: setting("api_key"), baseURL: setting("http_base_url"), ...settings });

const asked = (options = {}) => ({
  prompt: "A red kite",
  n: 1,
  size: "512x512",
  aspectRatio: undefined,
  seed: undefined,
  files: undefined,
  mask: undefined,
  headers: {},
  ...options,
  providerOptions: { runware: { ...options.runware } },
});

// The provider asks for PNG, and gives bytes whatever the outputType.
const isPNG = (bytes) => bytes instanceof Uint8Array && Buffer.from(bytes.slice(1, 4)).toString() === "PNG";

await report({
  "text to image": async () => {
    const { images, warnings } = await provider().image("runware:101@1").doGenerate(asked());
    check(images.length === 1 && isPNG(images[0]), warnings, images.length);
  },
  "several images": async () => {
    const model = provider().image("runware:101@1", { maxImagesPerCall: 4 });
    const { images } = await model.doGenerate(asked({ n: 3, seed: 5 }));
    check(images.length === 3, images.length);
  },
  "provider options": async () => {
    const runware = { steps: 20, CFGScale: 7, scheduler: "Euler", negativePrompt: "rain", includeCost: true };
    const { images } = await provider().image("runware:101@1").doGenerate(asked({ runware }));
    check(images.length === 1, images.length);
  },
  "image to image": async () => {
    const { images } = await provider().image("runware:101@1").doGenerate(asked({ runware: { seedImage: PICTURE, strength: 0.7 } }));
    check(images.length === 1, images.length);
  },
  "image as base64": async () => {
    const { images } = await provider().image("runware:101@1", { outputType: "base64Data" }).doGenerate(asked());
    check(isPNG(images[0]), String(images[0]).slice(0, 20));
  },
  "fine-tune": async () => {
    const { images } = await provider().image("civitai:133005@782002").doGenerate(asked());
    check(images.length === 1, images.length);
  },
  "refused parameter": async () => {
    await raises(provider().image("runware:101@1").doGenerate(asked({ size: "999x512" })), "width");
  },
  "unknown model": async () => {
    await raises(provider().image("nonexistent:999@999").doGenerate(asked()), "does not exist");
  },
  "failed task": async () => {
    await raises(provider().image("runware:101@1").doGenerate(asked({ prompt: "doomed" })), "failed");
  },
  "wrong key": async () => {
    await raises(provider({ apiKey: "wrong" }).image("runware:101@1").doGenerate(asked()), "Invalid API key");
  },
});
