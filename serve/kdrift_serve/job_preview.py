"""What a job's images look like so far: put into one small file a second at most, for whoever follows its events."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kdrift.recon.chunks import Chunk
from kdrift.recon.looks import Look, so_far
from kdrift_serve.job_files import JobFiles
from kdrift_serve.pictures import Kind, draw, white_of

PREVIEW = "preview"
PREVIEW_FILE = f"{PREVIEW}/preview.json"
PREVIEW_S = 1.0
"""Seconds between two previews of a job, at least; between two looks at a chunk as well."""
Shown = tuple[int, list[Look], Collection[Chunk]]
"""The number of a slice, looks at its chunks, and all of its chunks."""


@dataclass
class Preview:
    """The newest looks at the chunks of one job, by slices, and how many previews were made of them."""

    version: int = 0
    """What the file says it is: it grows with each; 0 where there is none yet."""
    looks: dict[int, dict[Chunk, Look]] = field(default_factory=dict)
    chunks: dict[int, Collection[Chunk]] = field(default_factory=dict)
    """All chunks of each slice that runs."""
    _made: float = 0.0
    _changed: bool = False

    def begin(self, index: int, chunks: Collection[Chunk]) -> None:
        """Note the chunks of a slice."""
        self.chunks[index] = chunks

    def take(self, index: int, look: Look) -> None:
        """Keep a look at a chunk of a slice, in place of the one before it."""
        if index in self.chunks:
            self.looks.setdefault(index, {})[look.chunk] = look
            self._changed = True

    def end(self, index: int) -> None:
        """Forget a slice that is done."""
        self.looks.pop(index, None)
        self.chunks.pop(index, None)

    def newest(self) -> list[Shown]:
        """Return what there is to show; nothing where it did not change, or the last preview is not old enough."""
        if not self._changed or time.monotonic() - self._made < PREVIEW_S:
            return []
        self._changed, self._made = False, time.monotonic()
        return [(index, list(looks.values()), self.chunks[index]) for index, looks in sorted(self.looks.items())]


def write_preview(files: JobFiles, job_id: str, version: int, shown: Sequence[Shown]) -> bool:
    """Make a preview of the first slice that has one, and put it in the place of the one before; False: none has.

    Raises `StateLost`.
    """
    for index, looks, chunks in shown:
        found = so_far(looks, chunks)
        if found is not None:
            values = {
                "version": version,
                "slice": index,
                **_pictures(found.mean, found.std),
                "chains": found.chains,
                "data_residual": round(found.residual, 4),
            }
            with files.filling(job_id, PREVIEW) as folder:
                (folder / PREVIEW_FILE.rpartition("/")[2]).write_text(json.dumps(values))
            return True
    return False


def _pictures(mean: Tensor, std: Tensor) -> dict[str, str]:
    """Return mean and deviation as PNG in data addresses, as `kdrift_serve.pictures` draws those of a result."""
    white = white_of(mean.numpy())
    images: dict[Kind, Tensor] = {"mean": mean, "std": std}
    pngs = {kind: draw(kind, image.numpy(), white)[0] for kind, image in images.items()}
    return {kind: f"data:image/png;base64,{base64.b64encode(png).decode()}" for kind, png in pngs.items()}
