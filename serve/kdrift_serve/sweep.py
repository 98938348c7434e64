"""Old jobs and uploads go, and what a process that died left behind."""

from __future__ import annotations

import shutil
import time

from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_table import JobTable
from kdrift_serve.serve_config import Limits
from kdrift_serve.upload_table import UploadTable


def sweep(table: JobTable, files: JobFiles, limits: Limits) -> None:
    """Delete finished jobs beyond the limits of number, age and size, the oldest first, uploads that nobody goes on
    with, files of neither, and what was being received or written by a process that died. Raises `StateLost`
    where table or storage is gone."""
    files.check()
    uploads = UploadTable(table)
    uploads.remove_older(limits.upload_hours * 3600)
    now, total, gone = time.time(), 0, list[str]()
    for number, (job_id, changed, size) in enumerate(table.finished()):
        total += size
        too_old = now - changed > limits.kept_days * 86400
        if number >= limits.kept_jobs or too_old or total > limits.kept_mb << 20:
            gone.append(job_id)
    table.remove(gone)
    for job_id in {*gone, *_strays(table, uploads, files)}:
        files.remove(job_id)
    half = list(files.incoming.iterdir())
    held = table.ids(held=True) | table.services()
    for path in half:
        if path.name[:32] not in held:
            shutil.rmtree(path, ignore_errors=True)


def _strays(table: JobTable, uploads: UploadTable, files: JobFiles) -> set[str]:
    """Return the ids that have files and are in no table: jobs and uploads are in theirs before they have files."""
    found = files.jobs()
    return found - table.ids() - uploads.ids() if found else set()
