"""Product photos: a folder in, each one cut out of its background and described, and a CSV of what came of it.

Try it: `runware-flow emulate -- python examples/product_photos.py photos out`.
A second start with the same folder buys nothing again.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from runware_flow import Flow, Ok
from runware_flow.tasks import Caption, RemoveBackground


def main(source: Path, target: Path) -> None:
    photos = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    target.mkdir(parents=True, exist_ok=True)
    flow = Flow("product-photos", journal=target / "photos.sqlite", on_error="continue")
    cut = flow.map(photos, lambda photo: RemoveBackground(model="runware:109@1", inputs={"image": photo}))
    files = cut.save(str(target / "{index}"))
    texts = cut.then(lambda picture: Caption(model="runware:150@2", inputs={"image": picture}))
    result = flow.run()
    with (target / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "file", "text"])
        for photo, saved, text in zip(photos, result.outcomes(files), result.outcomes(texts), strict=True):
            told = text.value.text if isinstance(text, Ok) else text
            rows.writerow([photo.name, saved.value if isinstance(saved, Ok) else saved, told])
    print(f"{len(photos)} photos, {result.cost} USD, {target / 'photos.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
