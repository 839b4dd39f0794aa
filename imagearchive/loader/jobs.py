"""Which kind of job makes a batch."""

from __future__ import annotations

from imagearchive.loader.batches import BatchJob, Epoch
from imagearchive.loader.field_job import FieldJob
from imagearchive.loader.pair_jobs import PairJob, SampleJob, TensorJob

__all__ = ["next_job"]


def next_job(epoch: Epoch) -> BatchJob | None:
    """Return the job of the next batch of an epoch, or None after the last."""
    number = epoch.take_number()
    if number is None:
        return None
    pipeline = epoch.pipeline
    job: BatchJob
    if pipeline is None:
        job = SampleJob(epoch, number)
    elif epoch.layout is not None:
        job = FieldJob(epoch, number, pipeline, epoch.layout)
    elif epoch.shape is None or pipeline.dtype is None or epoch.options.collate_fn is not None:
        job = PairJob(epoch, number, pipeline)
    else:
        job = TensorJob(epoch, number, pipeline, epoch.shape, pipeline.dtype)
    epoch.read_ahead(job)
    return job
