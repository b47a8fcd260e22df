// Calls of the older client for JavaScript (`@runware/sdk-js` 1.3.2), which goes by WebSocket alone.

import { FILM, PICTURE, TEXT_MODEL, check, raises, report, setting } from "./calls.mjs";
import { Runware } from "@runware/sdk-js";

async function client(options = {}) {
  return await Runware.initialize({
    apiKey: setting("api_key"),
    url: setting("ws_base_url"),
    globalMaxRetries: 1,
    timeoutDuration: 10_000,
    shouldReconnect: false,
    ...options,
  });
}

// Use a client of its own for each call.
const using = (call, options) => async () => {
  const api = await client(options);
  try {
    return await call(api);
  } finally {
    await api.disconnect();
  }
};

const image = (parameters = {}) => ({
  model: "runware:101@1",
  positivePrompt: "A red kite",
  width: 512,
  height: 512,
  ...parameters,
});

// Its getResponse asks once, and returns what the service says.
async function poll(api, { taskUUID }, numberResults = 1) {
  for (;;) {
    const found = await api.getResponse({ taskUUID, numberResults });
    if (found.every((one) => one.status !== "processing")) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const question = { model: TEXT_MODEL, messages: [{ role: "user", content: "What is a kite?" }] };

await report({
  "text to image": using(async (api) => {
    const images = await api.imageInference(image({ numberResults: 3, seed: 5, includeCost: true }));
    check(images.map((one) => one.seed).sort().join() === "5,6,7", images);
    check(images.every((one) => one.imageURL && one.imageUUID && one.cost > 0), images);
  }),
  "text to image async": using(async (api) => {
    const [accepted] = await api.imageInference(image({ deliveryMethod: "async", numberResults: 2 }));
    const images = await poll(api, accepted, 2);
    check(images.length === 2 && images.every((one) => one.imageURL), images);
  }),
  "partial images": using(async (api) => {
    const seen = [];
    await api.imageInference(image({ numberResults: 3, onPartialImages: (images, error) => seen.push([images, error]) }));
    check(seen.flatMap(([images]) => images).length === 3 && seen.every(([, error]) => !error), seen);
  }),
  "image as base64 and data URI": using(async (api) => {
    for (const [outputType, field] of [["base64Data", "imageBase64Data"], ["dataURI", "imageDataURI"]]) {
      const [one] = await api.imageInference(image({ outputType }));
      check(one[field], one);
    }
  }),
  "image to image with control net": using(async (api) => {
    const guide = { model: "runware:29@1", guideImage: PICTURE, weight: 0.5, startStep: 0, endStep: 9 };
    const [one] = await api.imageInference(image({ seedImage: PICTURE, strength: 0.7, controlNet: [guide], steps: 20 }));
    check(one.imageURL, one);
  }),
  "upscale": using(async (api) => {
    const one = await api.upscale({ inputImage: PICTURE, upscaleFactor: 2, includeCost: true });
    check(one.imageURL && one.cost > 0, one);
  }),
  "upscale with inputs": using(async (api) => {
    const one = await api.upscale({ model: "runware:504@1", inputs: { image: PICTURE }, upscaleFactor: 2 });
    check(one.mediaURL || one.imageURL, one);
  }),
  "caption": using(async (api) => {
    const said = await api.caption({ model: "runware:150@2", inputImage: PICTURE });
    check(said.text, said);
  }),
  "caption without a model": using(async (api) => {
    const said = await api.requestImageToText({ inputImage: PICTURE });
    check(said.text, said);
  }),
  "caption of a film": using(async (api) => {
    const said = await api.caption({ model: "memories:1@1", inputs: { video: FILM }, deliveryMethod: "async" });
    check([said].flat()[0].text, said);
  }),
  "remove background": using(async (api) => {
    const one = await api.removeBackground({ model: "runware:109@1", inputImage: PICTURE, outputFormat: "PNG" });
    check(one.imageURL.endsWith(".png"), one);
  }),
  "preprocess for control net": using(async (api) => {
    const one = await api.controlNetPreprocess({ inputImage: PICTURE, preProcessorType: "canny" });
    check(one.guideImageURL && one.inputImageUUID, one);
  }),
  "mask": using(async (api) => {
    const one = await api.imageMasking({ model: "runware:35@1", inputImage: PICTURE });
    check(one.maskImageURL && one.detections, one);
  }),
  "enhance prompt": using(async (api) => {
    const found = await api.promptEnhance({ prompt: "a kite", promptVersions: 3, promptMaxLength: 64 });
    check(new Set(found.map((one) => one.text)).size === 3, found);
  }),
  "vectorize": using(async (api) => {
    const one = [await api.vectorize({ model: "recraft:1@1", inputs: { image: PICTURE }, outputFormat: "SVG" })].flat()[0];
    check(one.imageURL.endsWith(".svg"), one);
  }),
  "photo maker": using(async (api) => {
    const found = await api.photoMaker({
      model: "civitai:139562@344487",
      positivePrompt: "img of a woman with a kite",
      width: 1024,
      height: 1024,
      inputImages: [PICTURE],
      style: "Photographic",
      strength: 40,
      numberResults: 1,
    });
    check(found[0].imageURL, found);
  }),
  "film": using(async (api) => {
    const found = await api.videoInference({
      model: "klingai:5@3",
      positivePrompt: "A red kite",
      duration: 5,
      width: 1920,
      height: 1080,
      frameImages: [{ inputImage: PICTURE, frame: "first" }],
      includeCost: true,
      numberResults: 1,
    });
    check([found].flat()[0].videoURL, found);
  }),
  "sound": using(async (api) => {
    const found = await api.audioInference({
      model: "elevenlabs:1@1",
      positivePrompt: "Wind in a kite",
      duration: 10,
      numberResults: 1,
    });
    check([found].flat()[0].audioURL, found);
  }),
  "text": using(async (api) => {
    const [said] = [await api.textInference({ ...question, includeUsage: true })].flat();
    check(said.text.includes("What is a kite?") && said.finishReason === "stop", said);
  }),
  "model in 3d": using(async (api) => {
    const found = await api.threeDInference({ model: "tripo:v3.1@0", positivePrompt: "a kite", inputs: { image: PICTURE } });
    check([found].flat()[0].outputs.files[0].url.endsWith(".glb"), found);
  }),
  "upload an image": using(async (api) => {
    const stored = await api.imageUpload({ image: PICTURE });
    check(stored.imageUUID, stored);
    const [one] = await api.imageInference(image({ seedImage: stored.imageUUID, strength: 0.5 }));
    check(one.imageURL, one);
  }),
  "upload a medium": using(async (api) => {
    const stored = await api.mediaStorage({ operation: "upload", media: PICTURE });
    check(stored.mediaUUID, stored);
  }),
  "upload a model": using(async (api) => {
    const stages = await api.modelUpload({
      category: "lora",
      architecture: "flux1d",
      format: "safetensors",
      air: "mine:3@1",
      name: "Kites",
      version: "1.0",
      downloadURL: "https://example.com/kites.safetensors",
      uniqueIdentifier: "a".repeat(64),
      defaultWeight: 1,
      private: true,
      tags: ["kites"],
      heroImageURL: PICTURE,
      shortDescription: "A model of kites",
      comment: "Kites.",
    });
    check([stages].flat().at(-1).status === "ready", stages);
  }),
  "search models": using(async (api) => {
    const query = { search: "realistic", category: "checkpoint", architecture: "sdxl", visibility: "all" };
    const found = await api.modelSearch({ ...query, tags: ["photorealistic"], limit: 20, offset: 0 });
    check(found.totalResults > 0 && found.results[0].air, found);
  }),
  "details of a task": using(async (api) => {
    const taskUUID = crypto.randomUUID();
    await api.imageInference(image({ taskUUID, customTaskUUID: taskUUID }));
    const details = await api.getTaskDetails({ taskUUID });
    check(details.request && details.response, details);
  }),
  "train": using(async (api) => {
    const accepted = await api.training({
      model: "runware:flux-1-dev@style-lora-training",
      inputs: { images: [PICTURE] },
      importModel: { name: "kites" },
    });
    const found = await poll(api, [accepted].flat()[0]);
    check([found].flat()[0].air, found);
  }),
  "dry run": using(async (api) => {
    await raises(api.imageInference(image({ width: 999 })), "width");
    const [accepted] = await api.imageInference(image({ deliveryMethod: "async" }));
    check(accepted.taskUUID && !accepted.imageURL, accepted);
  }, { dryRun: true }),
  "refused parameter": using(async (api) => {
    await raises(api.imageInference(image({ width: 999 })), "invalidWidth");
  }),
  "unknown model": using(async (api) => {
    await raises(api.imageInference(image({ model: "nonexistent:999@999" })), "modelNotFound");
  }),
  "failed task": using(async (api) => {
    await raises(api.imageInference(image({ positivePrompt: "doomed" })), "failed");
  }),
  "failed task async": using(async (api) => {
    const [accepted] = await api.imageInference(image({ positivePrompt: "doomed", deliveryMethod: "async" }));
    const [failed] = await poll(api, accepted);
    check(failed.status === "error" && failed.error.message === "The task failed.", failed);
  }),
  "failed film": using(async (api) => {
    const film = { model: "klingai:5@3", positivePrompt: "doomed", duration: 5, width: 1920, height: 1080 };
    await raises(api.videoInference({ ...film, numberResults: 1 }), "failed");
  }),
  "wrong key": async () => {
    await raises(client({ apiKey: "wrong" }), "Invalid API key");
  },
});
