"""A storyboard: a language model writes the scenes, each gets a picture, and its narration is spoken.

Try it: `runware-flow emulate -- python examples/storyboard.py "a lighthouse keeper and a whale"`
"""

import sys

from msgspec import Struct

from runware_flow import Flow
from runware_flow.tasks import AudioInference, ImageInference, TextInference


class Scene(Struct):
    title: str
    picture: str
    narration: str


def draw(scene: Scene) -> ImageInference:
    return ImageInference(model="runware:400@1", positive_prompt=scene.picture, width=1024, height=576)


def speak(scene: Scene) -> AudioInference:
    return AudioInference(model="inworld:tts@2", speech={"text": scene.narration})


flow = Flow("storyboard", journal="storyboard.sqlite")
subject = " ".join(sys.argv[1:]) or "a lighthouse"
question = {"role": "user", "content": f"Four scenes about {subject}, each with a picture and a narration."}
# `runware-flow models search --takes outputFormat=JSON` finds models that answer in JSON.
answer = flow.then(TextInference(model="google:gemini@3.5-flash", messages=[question], json_schema=list[Scene]))
scenes = answer.parse(list[Scene]).map()
pictures, voices = scenes.then(draw).save("out/picture-{index}"), scenes.then(speak).save("out/voice-{index}")

if __name__ == "__main__":
    result = flow.run()
    for scene, picture, voice in zip(result[scenes], result[pictures], result[voices], strict=True):
        print(f"{scene.title}: {picture}, {voice}")
