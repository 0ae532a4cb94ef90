"""The README's picture: the example photos with the tags that the packaged model gives them.

python docs/make_picture.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zsl_tagger import Tagger

ROOT = Path(__file__).parent.parent
PHOTOS = ("cat", "coffee", "rocket", "astronaut")
TILE, TEXT_HEIGHT, LINE, TAGS = 320, 190, 29, 6


def main() -> None:
    tagger = Tagger()
    picture = Image.new("RGB", (TILE * len(PHOTOS), TILE + TEXT_HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=20)
    for column, name in enumerate(PHOTOS):
        path, left = ROOT / "examples" / f"{name}.jpg", column * TILE
        with Image.open(path) as photo:
            side = min(photo.size)
            x, y = (photo.width - side) // 2, (photo.height - side) // 2
            picture.paste(photo.crop((x, y, x + side, y + side)).resize((TILE - 10, TILE - 10)), (left + 5, 5))
        for row, tag in enumerate(tagger.tag(path, top_k=TAGS)):
            top = TILE + 4 + row * LINE
            draw.rectangle((left + 8, top, left + 8 + tag.score * (TILE - 16), top + LINE - 5), fill=(207, 232, 252))
            draw.text((left + 14, top), tag.label, fill="black", font=font)
            draw.text((left + TILE - 58, top), f"{tag.score:.2f}", fill="black", font=font)
    picture.save(ROOT / "docs" / "tags.jpg", quality=88)


if __name__ == "__main__":
    main()
