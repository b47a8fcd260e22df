"""Product photos: a folder in, each one cut out of its background and described, and a CSV of what came of it.

Try it: `runware-flow emulate -- python examples/product_photos.py photos out`.
A second start with the same folder buys nothing again.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from runware_flow import Flow
from runware_flow.tasks import Caption, RemoveBackground


def cut_out(photo: Path) -> RemoveBackground:  # a PNG, because a JPG has no transparency
    return RemoveBackground(model="runware:109@1", inputs={"image": photo}, output_format="PNG")


def main(source: Path, target: Path) -> None:
    photos = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    flow = Flow("product-photos", journal=target / "photos.sqlite", on_error="continue")
    cut = flow.map(photos, cut_out, key=lambda photo: photo.stem)
    cut.save(str(target / "{key}"))
    cut.then(lambda picture: Caption(model="runware:150@2", inputs={"image": picture}))
    result = flow.run()
    with (target / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "file", "text", "cost", "error"])
        for photo, row in zip(photos, result.to_rows(), strict=True):
            rows.writerow([photo.name, "".join(row["files"]), "".join(row["texts"]), row["cost"], row["error"]])
    print(f"{len(photos)} photos, {result.cost} USD, {target / 'photos.csv'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
