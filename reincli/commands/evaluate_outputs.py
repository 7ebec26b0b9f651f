"""What `rein eval` is to write, and that it may: nothing over what is read, two images never into one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reincli.commands import label_maps
from reincli.commands.label_maps import MAKER
from reincli.commands.score_examples import Extremes
from reincli.data.labels import CITYSCAPES
from reincli.data.sources import Sample
from reincli.data.submission import Submission
from reincli.errors import ReinError
from reincli.media.outputs import Outputs, at_work, at_work_on
from reincli.prediction.evaluate import domain_names


@dataclass(frozen=True)
class Wanted:
    """What is to be written, None where it is not; `label_ids` is of the label maps below `out`."""

    out: Path | None = None
    label_ids: bool = False
    json_file: Path | None = None
    report_file: Path | None = None
    submission: Submission | None = None
    extremes: Extremes = field(default_factory=Extremes)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Be the only process that writes them while the body runs. ReinError where another one is at it."""
        zipped = None if self.submission is None else self.submission.path
        with ExitStack() as stack:
            if self.out is not None:
                stack.enter_context(at_work(self.out, MAKER))
            stack.enter_context(at_work_on(MAKER, self.json_file, self.report_file, zipped))
            yield


def require_free(wanted: Wanted, samples: Sequence[Sample], reads: Sequence[Path | None]) -> None:
    """ReinError where an output would be written over a file that is read, over somebody else's, or another one."""
    labels = [sample.label for sample in samples]
    outputs = Outputs(MAKER, [*reads, *(sample.image for sample in samples), *labels])
    if wanted.json_file is not None:
        outputs.claim(wanted.json_file, "--json")
    if wanted.report_file is not None:
        outputs.claim(wanted.report_file, "--report")
    if wanted.submission is not None:
        outputs.claim(wanted.submission.path, "--submit")
    if wanted.out is not None:
        names = domain_names([sample for sample in samples if sample.label is not None])
        for place in label_maps.places(samples, names):
            outputs.claim(wanted.out / place, "--out")


def require_classes(names: Sequence[str], checkpoint: Path, wanted: Wanted) -> None:
    """ReinError where a model has other classes than what is to be written of it."""
    if names == CITYSCAPES.names or not (wanted.label_ids or wanted.submission):
        return
    what, hint = "labelIds are of", "Leave --label-ids out."
    if wanted.submission:
        what = f"The {wanted.submission.benchmark.title} benchmark has"
        hint = "Submit a model of those classes."
    message = f"{what} the 19 Cityscapes classes, '{checkpoint}' has {len(names)} others."
    raise ReinError(message, hint, usage=True)
