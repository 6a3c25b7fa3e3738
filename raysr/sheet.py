"""A contact sheet of a prepared set: twelve pairs to look at, as in the paper's Figure 3."""

import io

import numpy as np
from PIL import Image, ImageDraw

from raysr import storage
from raysr.pairs import PairRow, PairSet

CONTACT_SHEET = "contact_sheet.png"
PAIRS, COLUMNS = 12, 3
CELL_PX, GAP_PX, CAPTION_PX = 240, 8, 16


def write_contact_sheet(location: str) -> None:
    """Write the sheet into the set's folder: training pairs from all over it, the input at its true size beside."""
    pairs = PairSet(location, "train", verify=False)
    chosen = sorted({int(place) for place in np.linspace(0, len(pairs) - 1, PAIRS)})
    starts = np.cumsum([0, *(rows for _, _, rows in pairs.groups)])
    rows: list[PairRow] = []
    for place in chosen:
        group = int(np.searchsorted(starts, place, side="right")) - 1
        rows.append(pairs.read_group(group)[place - int(starts[group])])
    buffer = io.BytesIO()
    contact_sheet(rows, pairs.geometry.scale).save(buffer, "PNG")
    storage.write_bytes(storage.join(location, CONTACT_SHEET), buffer.getvalue())


def contact_sheet(rows: list[PairRow], scale: int) -> Image.Image:
    """The pairs in a grid of three columns, each target CELL_PX high with its input, smaller by `scale`, beside it."""
    lr_px = CELL_PX // scale
    width, height = CELL_PX + GAP_PX + lr_px + 2 * GAP_PX, CELL_PX + CAPTION_PX + GAP_PX
    sheet = Image.new("L", (COLUMNS * width + GAP_PX, -(-len(rows) // COLUMNS) * height + GAP_PX), 255)
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        left, top = GAP_PX + index % COLUMNS * width, GAP_PX + index // COLUMNS * height
        draw.text((left, top), row.image_id[-60:], fill=0)
        for picture, side, x in ((row.hr, CELL_PX, left), (row.lr, lr_px, left + CELL_PX + GAP_PX)):
            sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, top + CAPTION_PX))
    return sheet
