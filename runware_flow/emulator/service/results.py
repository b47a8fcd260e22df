"""The results of a task, by task type: the fields of each item and the media they name (protocol facts, section 7)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from runware_flow.emulator.jsonvalues import as_list, as_object
from runware_flow.emulator.media.store import MediaStore, Medium, Recipe, make_uuid
from runware_flow.emulator.problems import Problem
from runware_flow.emulator.service import texts
from runware_flow.emulator.service.account import AIR_SOURCE
from runware_flow.emulator.service.jobs import Input, Job, Rendering, Slot
from runware_flow.emulator.service.kinds import LEGACY_NAMES
from runware_flow.emulator.settings import Settings, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("find_inputs", "produce")

_FOLDERS = {
    "image": ("image", "ii"),
    "maskImage": ("image", "ii"),
    "guideImage": ("image", "ii"),
    "video": ("video", "vi"),
    "audio": ("audio", "ai"),
    "media": ("media-storage", "ms"),
}
"""The folder and the letters in the address of a medium, by the prefix of its fields."""

_INPUT_FIELDS = (
    *("image", "images", "seedImage", "referenceImages", "referenceImage", "maskImage", "guideImage"),
    *("inputImage", "inputImages", "frameImages", "video", "inputVideo", "inputMedia", "media"),
)


def find_inputs(task: Mapping[str, Any]) -> list[Input]:
    """List the media that a task was given, the main one first."""
    found: list[Input] = []
    places: tuple[tuple[str, Mapping[str, Any]], ...] = (("inputs.", as_object(task.get("inputs"))), ("", task))
    for prefix, place in places:
        for name in _INPUT_FIELDS:
            value = place.get(name)
            if value is None:
                continue
            for one in as_list(value) or [value]:
                nested = as_object(one)
                medium = nested.get("image") or nested.get("video") or one
                if isinstance(medium, str) and medium:
                    found.append(Input(prefix + name, medium))
    return found


def produce(job: Job, recipes: list[Recipe], media_store: MediaStore, settings: Settings) -> list[Rendering]:
    """Make the items of a job whose inputs were read; returns what must be rendered before they can be sent.

    Raises:
        Problem: the inputs are not what the task type needs; the whole task fails.
    """
    makers: dict[str, Callable[[Job, Slot, list[Recipe], Settings], dict[str, Any] | Recipe]] = {
        "imageInference": _image,
        "upscale": _upscale,
        "removeBackground": partial(_derive, "cutout"),
        "imageMasking": partial(_derive, "mask"),
        "controlNetPreprocess": partial(_derive, "guide"),
        "vectorize": _vectorize,
        "caption": _caption,
        "textInference": _text,
        "promptEnhance": _enhance,
        "videoInference": partial(_file, "film"),
        "audioInference": partial(_file, "tone"),
        "3dInference": partial(_file, "solid"),
        "tools": _tool,
        "training": _training,
        "imageUpload": _store,
        "mediaStorage": _store,
        "modelUpload": _model_upload,
    }
    renderings: list[Rendering] = []
    for slot in job.slots:
        made = makers[job.kind.task_type](job, slot, recipes, settings)
        name = LEGACY_NAMES.get(job.task_type, job.task_type) if settings.result_names == "legacy" else job.task_type
        item: dict[str, Any] = {"taskType": name, "taskUUID": job.task_id}
        if isinstance(made, Recipe):
            renderings += _publish(job, slot, made, item, media_store, settings)
        else:
            item.update(made)
        if job.task.get("includeCost") is True:
            item["cost"] = job.cost / 1_000_000
        slot.item = item
    return renderings


def _publish(
    job: Job, slot: Slot, recipe: Recipe, item: dict[str, Any], media_store: MediaStore, settings: Settings
) -> list[Rendering]:
    """Store a medium and name it in the item, in the forms that were asked for."""
    medium_name = job.kind.medium
    folder, letter = _FOLDERS.get(medium_name, ("3d", "oi"))
    format_ = _format(job, recipe)
    medium_id = make_uuid("medium", job.task_id, slot.index)
    ttl = job.task.get("ttl")
    medium = media_store.add(
        Medium(
            medium_id=medium_id,
            path=f"/{folder}/os/a00/ws/2/{letter}/{medium_id}.{format_.lower()}",
            format=format_,
            recipe=recipe,
            quality=job.task.get("outputQuality") or 95,
            expires_at=slot.ready_at + ttl if isinstance(ttl, int) else None,
        )
    )
    slot.medium = medium
    url = settings.base_url + medium.path
    item.update(_extras(job, slot, recipe, settings))
    if not medium_name:
        item["outputs"] = {"files": [{"uuid": medium_id, "url": url}]}
        return []
    item[f"{medium_name}UUID"] = medium_id
    renderings = [
        Rendering(slot, f"{medium_name}{'DataURI' if form == 'dataURI' else 'Base64Data'}", medium, form == "dataURI")
        for form in _output_types(job)
        if form != "URL"
    ]
    if "URL" in _output_types(job):
        item[f"{medium_name}URL"] = url
    if job.kind.task_type == "imageMasking":
        renderings.append(Rendering(slot, "detections", medium, as_data_uri=False))
    return renderings


_ONLY = {"tone": "WAV", "solid": "GLB", "weights": "SAFETENSORS"}
"""What is written whatever was asked for: nothing light writes MP3 or FBX. The address says what it is."""


def _format(job: Job, recipe: Recipe) -> str:
    asked = str(job.task.get("outputFormat") or "").upper()
    if job.kind.task_type in {"imageUpload", "mediaStorage"}:
        return recipe.format
    if recipe.process in _ONLY:
        return _ONLY[recipe.process]
    if recipe.process == "film":
        return "MOV" if asked == "MOV" else "MP4"  # one container serves both; nothing in reach writes WEBM
    return asked or (job.kind.formats[0] if job.kind.formats else "PNG")


def _output_types(job: Job) -> list[str]:
    asked = job.task.get("outputType") or "URL"
    return [str(one) for one in as_list(asked) or [asked]]


_FROM_ONE_IMAGE = frozenset({"upscale", "removeBackground", "imageMasking", "controlNetPreprocess"})


def _extras(job: Job, slot: Slot, recipe: Recipe, settings: Settings) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    kind = job.kind.task_type
    if kind == "mediaStorage":
        extras["operation"] = "upload"
    if kind in {"imageInference", "videoInference", "audioInference", "3dInference"}:
        extras["seed"] = recipe.seed
    if kind == "training":
        extras["air"] = f"runware:trained@{make_uuid('trained', job.task_id, slot.index)[:8]}"
    safety = as_object(job.task.get("safety"))
    checked = safety.get("checkContent") or safety.get("mode") in ("fast", "full")
    if checked or job.task.get("checkNSFW"):
        extras["NSFWContent"] = "nsfw" in recipe.prompt.lower()
    if settings.input_uuid and kind in _FROM_ONE_IMAGE and job.kind.modality == "image" and job.inputs:
        given = job.inputs[0].value
        extras["inputImageUUID"] = given if len(given) == 36 else make_uuid("input", given)
    return extras


def _seed(job: Job, slot: Slot, settings: Settings) -> int:
    """The given seed plus one a result [doc]; otherwise an unsigned 32-bit number of its own for each."""
    given = job.task.get("seed")
    if isinstance(given, int | float):
        return int(given) + slot.index
    return int(draw(settings.seed, "seed", job.task_id, slot.index) * 2**32)


def _main_picture(job: Job, recipes: list[Recipe]) -> Recipe:
    if not recipes:
        message = f"The task type '{job.task_type}' needs an image in 'inputs.image'."
        raise Problem("missingInputs", message, parameter="inputs.image", type="media")
    return recipes[0]


def _image(job: Job, slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    first = recipes[0] if recipes else None
    width = job.task.get("width") or (_whole(first.width) if first else 1024)
    height = job.task.get("height") or (_whole(first.height) if first else 1024)
    prompt = str(job.task.get("positivePrompt") or "")
    return Recipe(
        process="generated",
        width=int(width),
        height=int(height),
        prompt="" if prompt == "__BLANK__" else prompt,
        seed=_seed(job, slot, settings),
        source=first,
    )


def _whole(size: int) -> int:
    return min(2048, max(128, size // 16 * 16))


def _upscale(job: Job, slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    """Enlarge by the factor; at most 4096 x 4096, for which a larger input is shrunk first [doc]."""
    source = _main_picture(job, recipes)
    if job.kind.modality == "video":
        return replace(_file("film", job, slot, recipes, settings), prompt=source.prompt)
    factor = float(job.task.get("upscaleFactor") or 2)
    megapixels = job.task.get("targetMegapixels")
    if isinstance(megapixels, int | float) and megapixels > 0:
        factor = (megapixels * 1_000_000 / (source.width * source.height)) ** 0.5
    width, height = job.task.get("width"), job.task.get("height")
    if isinstance(width, int) and isinstance(height, int):
        factor = min(width / source.width, height / source.height)
    factor = min(factor, 4096 / source.width, 4096 / source.height)
    width, height = max(1, round(source.width * factor)), max(1, round(source.height * factor))
    return source.derived("resized", width=width, height=height, detail=source.detail)


def _derive(process: str, job: Job, slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    source = _main_picture(job, recipes)
    if job.kind.modality == "video":
        return replace(_file("film", job, slot, recipes, settings), prompt=source.prompt)
    detail = str(job.task.get("preProcessorType") or job.task.get("model")).rpartition("@")[2]
    if process == "cutout":
        given = as_object(job.task.get("settings"))
        rgba = as_list(given.get("rgba") or job.task.get("rgba"))
        process = "mask" if given.get("returnOnlyMask") or job.task.get("returnOnlyMask") else "cutout"
        detail = ",".join(map(str, rgba))
    return source.derived(process, detail=detail)


def _vectorize(job: Job, slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    source = recipes[0] if recipes else _image(job, slot, recipes, settings)
    return source.derived("vector")


def _caption(job: Job, _slot: Slot, recipes: list[Recipe], _settings: Settings) -> dict[str, Any]:
    source = _main_picture(job, recipes)
    if str(job.task.get("model")) in {"runware:153@1", "runware:154@1", "runware:152@50"}:
        groups = ("0-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
        age = draw("age", source.prompt, source.seed, source.width)
        return {"structuredData": {"ageGroup": groups[int(age * len(groups))], "confidence": round(0.5 + age / 2, 4)}}
    return {"text": texts.describe(source)}


def _text(job: Job, slot: Slot, _recipes: list[Recipe], settings: Settings) -> dict[str, Any]:
    """Text, why it ended, and the usage when asked for; no id of its own, whatever numberResults is [sdk]."""
    said = texts.answer(job.task, slot.index, settings.answers)
    item: dict[str, Any] = {"text": said.text, "finishReason": said.finish_reason}
    if job.task.get("includeUsage") is True or settings.usage == "always":
        item["usage"] = said.usage
    return item


def _enhance(job: Job, slot: Slot, _recipes: list[Recipe], settings: Settings) -> dict[str, Any]:
    words = job.task.get("promptMaxLength")
    limit = words if isinstance(words, int) else None
    return {"text": texts.enhance(str(job.task["prompt"]), slot.index, limit, settings.seed)}


def _file(process: str, job: Job, slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    duration = job.task.get("duration")
    sound = as_object(job.task.get("audioSettings"))
    seconds = duration if isinstance(duration, int | float) else 2
    return Recipe(
        process=process,
        width=int(job.task.get("width") or 320),
        height=int(job.task.get("height") or 180),
        prompt=str(job.task.get("positivePrompt") or ""),
        seed=_seed(job, slot, settings),
        source=recipes[0] if recipes else None,
        detail=f"{seconds},{sound.get('sampleRate') or 8000},{sound.get('channels') or 1}",
    )


def _tool(job: Job, slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    """What a conversion makes, by the format that was asked for: a still, a sound or a film."""
    asked = str(job.task.get("outputFormat") or "MP4").upper()
    if asked in ("PNG", "JPG", "WEBP"):
        made = _file("generated", job, slot, recipes, settings)
        return replace(made, source=recipes[0] if recipes and recipes[0].width else None, prompt="")
    process = "tone" if asked in ("MP3", "WAV", "AAC", "FLAC", "OGG") else "film"
    return _file(process, job, slot, recipes, settings)


def _training(_job: Job, _slot: Slot, _recipes: list[Recipe], _settings: Settings) -> Recipe:
    return Recipe(process="weights", width=0, height=0)


def _store(_job: Job, _slot: Slot, recipes: list[Recipe], settings: Settings) -> Recipe:
    """An upload as it is; a picture with a longer side than the service keeps is stored smaller [doc]."""
    source = recipes[0]
    longest = max(source.width, source.height)
    if longest <= settings.upload_side:
        return source
    share = settings.upload_side / longest
    return replace(
        source,
        process="resized",
        width=max(1, round(source.width * share)),
        height=max(1, round(source.height * share)),
        source=source,
        data=b"",
    )


def _model_upload(job: Job, slot: Slot, _recipes: list[Recipe], _settings: Settings) -> dict[str, Any]:
    stage, message = _UPLOAD_STAGES[slot.index]
    number = int(make_uuid("model", job.task_id)[:6], 16)
    return {"status": stage, "message": message, "air": job.task.get("air") or f"{AIR_SOURCE}:{number}@1"}


_UPLOAD_STAGES = (
    ("validated", "The parameters of the model are valid; it is downloaded next."),
    ("downloaded", "The model is downloaded; it is optimized next."),
    ("optimized", "The model is optimized; it is stored next."),
    ("stored", "The model is stored; it is made ready next."),
    ("ready", "The model is ready to be used."),
)
"""Each stage comes with a message [doc]; the words are this emulator's."""
