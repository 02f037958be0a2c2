"""What a run says while it trains: a live bar, metrics.jsonl, TensorBoard, and notes in log.txt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ukd import distributed
from ukd.files import write_atomically

PLAIN_EVERY_S = 10.0
"""Where there is no terminal, a line of progress is printed this often."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar for a pass over `total` images, where there is a terminal; yields what to call with counts done."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not (distributed.is_main() and console.is_terminal)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


class _Bar(Progress):
    """A bar, and the newest figures on the lines below it, so that a narrow terminal shows both."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures, style="dim")


class RunLog:
    """The log of one run; does nothing on processes other than the main one.

    Args:
        folder: The run folder.
        first_step: Step at which this process starts; what an interrupted run logged beyond it is forgotten.
        num_steps: Steps of the whole run.
    """

    def __init__(self, folder: Path, first_step: int, num_steps: int) -> None:
        self._enabled = enabled = distributed.is_main()
        self._num_steps = num_steps
        self._step = first_step
        self._console = Console(stderr=True, quiet=not enabled)
        self._latest: dict[str, float] = {}
        self._images = 0
        self._since = self._printed = time.monotonic()
        self._progress = _Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=2,  # Drawing takes time from the thread that trains.
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._progress.add_task("train", total=num_steps, completed=first_step)
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            self._folder = folder
            self._metrics_file = folder / "metrics.jsonl"
            _forget_from(self._metrics_file, first_step)
            self._tensorboard = SummaryWriter(folder / "tensorboard", purge_step=first_step)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._enabled:
            self._tensorboard.close()

    def advance(self, num_images: int) -> None:
        """Counts one step of `num_images` images over all processes."""
        self._step += 1
        self._images += num_images
        self._progress.update(self._task, completed=self._step)

    def speed(self) -> float:
        """Images per second since this was last asked."""
        now = time.monotonic()
        speed = self._images / max(now - self._since, 1e-9)
        self._images, self._since = 0, now
        return speed

    def metrics(self, values: Mapping[str, float]) -> None:
        """Writes the figures of the current step and shows them beside the bar."""
        if not (self._enabled and values):
            return
        with self._metrics_file.open("a") as file:
            rounded = {name: float(f"{value:.9g}") for name, value in values.items()}
            file.write(json.dumps({"step": self._step, **rounded}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, self._step)
        self._latest.update(values)
        self._progress.figures = figures = "  ".join(_figure(name, value) for name, value in self._latest.items())
        if self._progress.disable and time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._console.print(f"step {self._step}/{self._num_steps}  {figures}", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Says a sentence, and keeps it in log.txt."""
        if not self._enabled:
            return
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)
        with (self._folder / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} step {self._step}: {text}\n")


def _figure(name: str, value: float) -> str:
    short = name.replace("_per_", "/").replace("_", " ")
    return f"{short} {value:.0f}" if abs(value) >= 1000 else f"{short} {value:.3g}"


def _forget_from(metrics_file: Path, step: int) -> None:
    """Drops the lines after `step` that a run wrote between its last checkpoint and its end, and a half-written one."""
    if not metrics_file.exists():
        return
    kept = []
    for line in metrics_file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            continue
    write_atomically(metrics_file, "".join(f"{line}\n" for line in kept).encode())
