"""Render every typeface of a folder of fonts as 62 images of 16×16 pixels: `A…Z`, `a…z`, `0…9`.

    python experiments/glyphs/render.py FOLDER --to glyphs.npz

Needs Pillow.  Fonts come in packages of most systems, on Debian for example as `fonts-…` below /usr/share/fonts.  Prints one JSON
line last.  See README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import string
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
ENDINGS = (".ttf", ".otf", ".pfb", ".ttc")
POINTS, SIDE, LONGEST = 48, 16, 14
DIFFERENT = 40
"""Images that a typeface has at least: those of symbols and of one case for both have fewer."""
ABSENT = "\uffff"
"""No font has it, so that it is drawn as what a font draws for characters that it lacks."""


def drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """White on black, cut to what is white; None if nothing is."""
    canvas = Image.new("L", (4 * POINTS, 4 * POINTS))
    ImageDraw.Draw(canvas).text((POINTS, POINTS), character, fill=255, font=font)
    box = canvas.getbbox()
    return None if box is None else canvas.crop(box)


def typeface(file: Path) -> np.ndarray | str:
    """(62, 16, 16) bytes, or why there are none.

    Each character is made smaller until its longest side has 14 pixels, never larger, and centred.
    """
    try:
        font = ImageFont.truetype(str(file), POINTS)
        absent, images = drawn(font, ABSENT), [drawn(font, one) for one in CHARACTERS]
    except (OSError, ValueError):
        return "cannot be read"
    cut = [one for one in images if one is not None and not _same(one, absent)]
    if len(cut) < len(CHARACTERS):
        return "lacks a character"
    found = np.stack([_placed(one) for one in cut])
    if len({one.tobytes() for one in found}) < DIFFERENT:
        return f"draws fewer than {DIFFERENT} different characters"
    return found


def render(folder: Path) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """Arrays `images`, `labels`, `typeface` and `names`, and how many files were left out why.

    Raises:
        SystemExit: the folder has no font that can be used.
    """
    files = sorted(one for one in folder.rglob("*") if one.suffix.lower() in ENDINGS)
    kept, names, left, known = [], [], Counter[str](), set[bytes]()
    for number, file in enumerate(files, 1):
        found = typeface(file)
        if isinstance(found, str):
            left[found] += 1
            continue
        digest = hashlib.sha256(found.tobytes()).digest()
        if digest in known:
            left["repeats another"] += 1
            continue
        known.add(digest)
        kept.append(found)
        names.append(file.stem)
        if number % 100 == 0:
            print(f"{number} of {len(files)} files, {len(kept)} typefaces", file=sys.stderr, flush=True)
    if not kept:
        why = (
            "; ".join(f"{count} {reason}" for reason, count in left.items())
            or f"no file ends with {', '.join(ENDINGS)}"
        )
        raise SystemExit(
            f"'{folder}' has no font that can be used ({why}); give a folder of fonts, such as /usr/share/fonts"
        )
    count = len(CHARACTERS)
    return {
        "images": np.concatenate(kept),
        "labels": np.tile(np.arange(count, dtype=np.uint8), len(kept)),
        "typeface": np.repeat(np.arange(len(kept), dtype=np.int32), count),
        "names": np.array(names),
    }, left


def _same(one: Image.Image, other: Image.Image | None) -> bool:
    return other is not None and one.size == other.size and one.tobytes() == other.tobytes()


def _placed(image: Image.Image) -> np.ndarray:
    scale = min(1.0, LONGEST / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    small = np.asarray(image.resize((size[0], size[1]), Image.Resampling.LANCZOS))
    found = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    found[top : top + size[1], left : left + size[0]] = small
    return found


def main() -> None:
    """Renders the folder, and writes the file whole or not at all."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path, help="of fonts, searched with all below it")
    words.add_argument("--to", type=Path, default=Path("glyphs.npz"))
    options = words.parse_args()
    arrays, left = render(options.folder)
    half = options.to.with_name(options.to.name + ".half.npz")
    np.savez_compressed(half, **arrays)
    half.replace(options.to)
    print(json.dumps({"typefaces": len(arrays["names"]), "images": len(arrays["images"]), "left out": dict(left)}))


if __name__ == "__main__":
    main()
