"""The `harness` command: one click command a verb, no logic. Heavy imports wait inside the commands."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from harness.analysis import kinds
from harness.errors import HarnessError, Preempted, Stranded, storage_error

DEFAULT_OUT = Path("results/runs")
_PATIENCE_SECONDS = 3
TABLE_FORMATS = ("text", "markdown", "latex", "csv", "json")

Command = Callable[..., Any]


def out_option(command: Command) -> Command:
    """--out."""
    return click.option(
        "--out", type=click.Path(path_type=Path), default=DEFAULT_OUT, show_default=True, help="Where grids are kept."
    )(command)


def data_option(command: Command) -> Command:
    """--data."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Folder of the data sets [default: $HARNESS_DATA, else ~/.cache/harness].",
    )(command)


def format_option(command: Command) -> Command:
    """--format."""
    return click.option(
        "--format", "form", type=click.Choice(TABLE_FORMATS), default="text", show_default=True, help="How to print."
    )(command)


def layout_options(command: Command) -> Command:
    """--rows, --columns and those of single kinds: of images that models are asked for."""
    options = (
        click.option("--rows", type=click.IntRange(min=1), help="Rows of images [default: 8; conditions: all]."),
        click.option("--columns", type=click.IntRange(min=2), help="Images in a row [default: 9]."),
        click.option(
            "--components", metavar="I[,I...]", help="sweep: components of the latent, from 0 [default: the first]."
        ),
        click.option(
            "--way",
            type=click.Choice(["linear", "spherical"]),
            help="interpolation: along a line, as in the 2014 paper, or (normal priors) a great circle "
            "[default: linear].",
        ),
        click.option(
            "--after",
            type=click.IntRange(min=1),
            help="chains: steps walked at the first column [default: as at a chain's first sample].",
        ),
        click.option("--every", type=click.IntRange(min=1), help="chains: steps from column to column [default: 1]."),
    )
    for option in reversed(options):
        command = option(command)
    return command


grid_path = click.argument("path", type=click.Path(path_type=Path))


@click.group(
    epilog="""\b
Examples:
  harness run demo                         train a shipped grid
  harness evaluate results/runs/demo       compute its metrics
  harness table results/runs/demo          one row a setting, mean and standard error over seeds
  harness plot results/runs/demo           curves, samples, metrics as PNG
""",
)
@click.version_option(package_name="gan-harness")
def main() -> None:
    """Train generative adversarial networks under a grid of settings, evaluate them, and tabulate the results."""


@main.command(
    epilog="""\b
Examples:
  harness run demo
  harness run my-grid.toml --set iterations=200 --set 'seeds=[0, 1]' --dry-run
  harness run my-grid.toml --placement one-per-process
  harness run my-grid.toml --stack $SLURM_ARRAY_TASK_ID      a task of a job array
  accelerate launch --num_processes 4 harness/run.py paper-mnist --data ~/data

\b
A grid file:
  name = "losses-by-k"
  seeds = [0, 1, 2]
  [experiment]
  dataset = "digits"
  model = "mlp"
  iterations = 1000
  optimizer = {name = "Adam", lr = 2e-4, betas = [0.5, 0.999]}
  [axes]
  loss = ["minimax", "non_saturating"]
  k = [1, 2]

\b
Exit codes: 0 all trained, 1 some runs or the disk failed, 2 bad input, 75 stopped by a signal with everything saved.
"""
)
@click.argument("grid")
@out_option
@data_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the grid file.")
@click.option("--dry-run", is_flag=True, help="Print the runs with their ids and train nothing.")
@click.option(
    "--images-on",
    type=click.Choice(["auto", "device", "stream"]),
    default="auto",
    show_default=True,
    help="Keep training images on the device, or stream them.",
)
@click.option(
    "--placement",
    type=click.Choice(["auto", "packed", "one-per-process", "data-parallel"]),
    default="auto",
    show_default=True,
    help="Stacks of many runs, each on one process; single runs, each on one; or every stack on all processes.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of a process on CPUs [default: its share of the cores]."
)
@click.option(
    "--stack",
    "--stacks",
    "stacks",
    multiple=True,
    metavar="N[,N...]",
    help="Train just these stacks, by their places in grid.json, from 0 [default: all].",
)
@click.option("--tracker", "trackers", multiple=True, help="A tracker of Accelerate (tensorboard, wandb, ...).")
@format_option
def run(**options: Any) -> None:
    """Train the experiments of GRID, a TOML file or a shipped grid's name.

    Finished runs are skipped, begun ones resumed; a failed one is recorded and the others go on. Several of these
    commands may work on one grid at once, on several machines too, if all see the same --out: each takes what no other
    trains, and returns when all has ended. Where a search has `then_best`, the same command trains its best draws once
    `harness evaluate` has measured all of them.
    """
    from harness.stopping import stop_signals

    with stop_signals() as stop:  # from here on, so that a signal during the start-up is not lost
        _run(stop=stop, **options)


def _run(
    grid: str,
    out: Path,
    data: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    images_on: Any,
    placement: Any,
    threads: int | None,
    stacks: tuple[str, ...],
    trackers: tuple[str, ...],
    form: str,
    stop: Callable[[], bool],
) -> None:
    from harness.grid import load_grid

    places = _stack_places(stacks)
    loaded = load_grid(grid, overrides=overrides)  # before torch is imported: a bad file is refused at once

    from harness import winners
    from harness.commands.names import render_plan
    from harness.evaluation import Request
    from harness.plan import plan_beside_file
    from harness.runs import GridFolder

    Request.of(loaded.evaluation)  # an unknown metric is refused now
    planned = plan_beside_file(loaded, data)
    if stop():
        raise Preempted("stopped before training; nothing was changed.")
    if dry_run:
        say(render_plan(winners.grown(planned, winners.choose(GridFolder(out / loaded.name), planned)), form))
        return

    from harness.runner import Options, run_grid
    from harness.watching import ProgressWatcher, progress_bar

    options = Options(out, images_on=images_on, placement=placement, threads=threads, trackers=trackers, stacks=places)
    with progress_bar(show=is_main()) as progress:
        folder = run_grid(planned, options, stop=stop, watcher=ProgressWatcher(planned, progress, is_main=is_main()))
    say(str(folder.path))
    if not places and is_main() and (note := winners.next_step(folder, planned)):
        click.echo(f"harness: {note}", err=True)


@main.command(
    epilog="""\b
Examples:
  harness evaluate results/runs/demo
  harness evaluate results/runs/demo --metrics fid,kid,coverage --samples-count 5000 --companions
  harness evaluate results/runs/demo --metrics fid --select best-validation
  harness evaluate --samples my-samples.npz --dataset mnist --metrics fid,isc --format json
  harness evaluate --samples folder-of-png --dataset npz:images.npz --extractor my-classifier.safetensors
  harness evaluate --samples test-images --dataset mnist --reference train

\b
`harness list metrics` and `harness list extractors` name what there is. Every key of a record says all that decides its
number: extractor, split, number of samples, resize, batch norm.
"""
)
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option(
    "--samples",
    help="Evaluate other images instead: .npz (key `images`), .npy, a folder of images, an exported generator (.pt2), "
    "or `training-images`, `validation-images`, `test-images`, `k-means`, `gaussian`.",
)
@click.option("--dataset", help="The data set that the images of --samples imitate.")
@click.option(
    "--metrics",
    "--metric",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="What to measure [default: the grid's; parzen].",
)
@click.option("--samples-count", type=click.IntRange(min=2), help="How many samples [default: the grid's; 10000].")
@click.option(
    "--reference", type=click.Choice(["test", "train"]), help="Compare with these [default: the grid's; test]."
)
@click.option("--extractor", help="The network whose features are compared [default: what suits the data set].")
@click.option("--weights", type=click.Path(path_type=Path), help="A file of the extractor's weights.")
@click.option("--weights-sha256", metavar="HEX", help="The hash of --weights, where it is not the published file.")
@click.option(
    "--select",
    type=click.Choice(["last", "best-validation"]),
    help="Which snapshot of a run: the last, or the best on validation images [default: the grid's; last].",
)
@click.option("--select-by", metavar="NAME", help="The metric that chooses [default: the first that can].")
@click.option("--companions", is_flag=True, help="Rows of training images, k-means and a Gaussian beside the runs.")
@click.option("--latent", type=click.Choice(["normal", "uniform"]), default="normal", help="What a .pt2 is fed.")
@click.option("--trust-code", is_flag=True, help="Allow what runs foreign code: a .pt2, DINOv2 from torch.hub.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder of computed references [default: $HARNESS_CACHE, else ~/.cache/harness/references].",
)
@data_option
@format_option
def evaluate(
    path: Path | None,
    samples: str | None,
    dataset: str | None,
    latent: str,
    trust_code: bool,
    form: str,
    **options: Any,
) -> None:
    """Compute metrics of the finished runs at PATH (a grid's folder, or one run's), or of samples from elsewhere."""
    if (path is None) == (samples is None):
        raise click.UsageError("give either PATH or --samples FILE.")
    if (samples is None) != (dataset is None):
        raise click.UsageError("--samples FILE and --dataset NAME go together.")
    of_runs = {
        "--select": options["select"],
        "--select-by": options["select_by"],
        "--companions": options["companions"],
    }
    if samples is not None and (idle := [name for name, value in of_runs.items() if value]):
        raise click.UsageError(
            f"{', '.join(idle)}: for runs alone; samples from elsewhere have no snapshots and no rows."
        )
    from harness.commands import evaluate as command

    wanted = command.options(trust_code=trust_code, **options)
    if samples is not None and dataset is not None:
        record = command.evaluate_file(samples, dataset, wanted, latent=latent, trust_code=trust_code)
        say(command.render_record(record, form))
    elif path is not None:
        sys.path.append(os.getcwd())  # so that a user's model in this folder is found
        say(command.evaluate_path(path, wanted, form))


@main.command(
    epilog="""\b
Examples:
  harness sample results/runs/demo/runs/0123456789abcdef --n 64 -o samples.npz
  harness sample results/runs/demo/runs/0123456789abcdef --kind sweep --components 0,3,7 --columns 11
  harness sample results/runs/demo/runs/0123456789abcdef --kind interpolation --rows 5 --way spherical
  harness sample results/runs/table1-mnist/runs/0123456789abcdef --kind chains --after 1 --every 20

\b
The kind conditions has a row for each class that a conditional model knows, and a column for each latent. A sweep's row
moves one component of the first sample's latent through the prior, from its 2 % to its 98 % quantile, the others fixed.
An interpolation's row goes from one sample of the run's list to the next. Chains are those of dbn, stacked-cae and
deep-gsn: a row walks on from one of the run's first samples, or, with --after, begins elsewhere on its way.
"""
)
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["random", *kinds.SHEETS]), default="random", show_default=True)
@click.option("--n", type=click.IntRange(min=1), help="random: how many samples [default: 100].")
@layout_options
@click.option("--iteration", type=click.IntRange(min=1), help="A snapshot's iteration [default: the last].")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("samples.npz"), show_default=True)
def sample(run_path: Path, **options: Any) -> None:
    """Draw samples from the finished run at RUN into an .npz file (`images`, float32 (n, c, h, w) in [0, 1]).

    The other kinds give rows of columns, whose `layout` is in the file too, with the `latents` or `times` behind them.
    """
    from harness.commands.sample import sample as command

    sys.path.append(os.getcwd())  # so that a user's model in this folder is found
    click.echo(str(command(run_path, **options)))


@main.command(
    epilog="""\b
Examples:
  harness table results/runs/demo
  harness table results/runs/demo --metric parzen --format latex > table.tex
  harness table results/runs/lucic-digits --draws    each draw of a search, not all as one row
  harness table results/runs/demo --companions       with rows of training images, k-means centroids, a Gaussian
  harness table results/runs/paper-mnist --style paper    Table 1 of the 2014 paper, and ours beside it

\b
Styles:
  axes   a row a combination of axis values
  paper  a row a method, the published Parzen log-likelihood and ours by data set, of samples and of binary draws, then
         the other metrics; the footnote says what samples are, where chains start and what differs from the publication
"""
)
@grid_path
@click.option("--style", type=click.Choice(["axes", "paper"]), default="axes", show_default=True, help="See below.")
@click.option("--metric", help="A metric's key, or the beginning of one [default: all].")
@click.option(
    "--companions",
    is_flag=True,
    help="Add rows of training images, k-means and a Gaussian, measured if need be.",
)
@click.option("--draws", is_flag=True, help="A row for each draw of a search whose best train again, not one for all.")
@data_option
@format_option
def table(path: Path, form: str, **options: Any) -> None:
    """Print the metrics of the grids at PATH: mean and standard error over seeds, by the axes or by method."""
    from harness.commands.table import table as command

    click.echo(command(path, form=form, **options))


@main.command(
    epilog=f"""\b
Examples:
  harness plot results/runs/demo
  harness plot results/runs/demo/runs/0123456789abcdef -o figures
  harness plot results/runs/demo --kind sweep --kind neighbours
  harness plot results/runs/demo/runs/0123456789abcdef --kind interpolation --rows 5 --columns 11
  harness plot results/runs/energy-toys --kind landscape

\b
Kinds that are drawn from the runs' files:
{kinds.described(kinds.OF_FILES)}

\b
Kinds that trained models are asked for, a file a run under GRID/plots/KIND, or RUN/plots/KIND.png:
{kinds.described(kinds.OF_MODELS)}
"""
)
@grid_path
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([*kinds.ALL]),
    multiple=True,
    help=f"What to draw; may be repeated [default: {', '.join(kinds.OF_FILES)}].",
)
@click.option("--metric", help="The metric of the metric plot [default: the first].")
@layout_options
@data_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder [default: PATH/plots].")
def plot(path: Path, **options: Any) -> None:
    """Draw the grids (or the run) at PATH as PNG files: curves, samples, metrics, and what the models make."""
    from harness.commands.plot import plot as command

    sys.path.append(os.getcwd())  # so that a user's model in this folder is found
    written = command(path, **options)
    for file in written:
        click.echo(str(file))
    if not written:
        click.echo("harness: nothing to draw yet: no run has ended", err=True)


@main.command(
    epilog="""\b
Examples:
  harness status results/runs/demo
  harness status results/runs --watch

\b
pending    not begun; where it was submitted, its job waits
running    trains, or its job has begun
preempted  begun and stopped, by a signal or killed: goes on from its last checkpoint; where submitted, its job waits
complete   trained to the end
diverged   ended with numbers that are not finite
failed     an error ended it: see the reason, and failure.json in its folder
lost       it was submitted and has not ended, but its job is gone: `harness submit GRID --only lost`
"""
)
@grid_path
@click.option("--watch", is_flag=True, help="Print again every two seconds until every run has ended.")
@format_option
def status(path: Path, watch: bool, form: str) -> None:
    """Print how far each run of the grids at PATH is, by its folder and by what SLURM says of submitted ones."""
    from harness.analysis.status import render_status, status_frame
    from harness.cluster import joined
    from harness.runs import find_grids

    while True:
        grids = find_grids(path)
        frame, notes = joined.joined(status_frame(grids), grids)
        if watch and sys.stdout.isatty():
            click.clear()
        click.echo(render_status(frame, form))
        for note in notes:
            click.echo(f"harness: {note}", err=True)
        if not watch or not set(frame["status"]) & frame.attrs.get("unended", {"pending", "running"}):
            return
        time.sleep(2)


@main.command(
    epilog="""\b
Examples:
  harness submit my-grid.toml --partition gpu --gpus 1 --cpus 8 --memory 16G --time 4:00:00 --dry-run
  harness submit my-grid.toml --partition gpu --gpus 1 --cpus 8 --time 4:00:00 --array-parallel 8 --prologue env.sh
  harness submit my-grid.toml --partition gpu --gpus 1 --cpus 8 --time 4:00:00 --only failed,lost
  harness submit big.toml --nodes 2 --gpus 4 --cpus 8 --time 1-00:00:00 --interface ib0

\b
Each stack of the grid becomes a task of a job array; only its number travels. Stopped by a signal (a preemption,
or --signal-seconds before the limit) a task saves, exits with 75 and goes back into the queue, from where it goes on. A
job behind the array evaluates, writes table.md into the grid's folder and plots. Scripts, logs and the record of what
was submitted lie in GRID_FOLDER/slurm. With several processes for a run, srun starts each and all train every stack.
"""
)
@click.argument("grid")
@click.option(
    "--only", metavar="STATUS[,...]", help="Submit the runs of these statuses: pending, preempted, failed, lost."
)
@click.option("--dry-run", is_flag=True, help="Print every script and command; write and submit nothing.")
@click.option("--partition", metavar="NAME")
@click.option("--account", metavar="NAME")
@click.option("--qos", metavar="NAME")
@click.option("--constraint", metavar="FEATURES", help="Features that nodes must have.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="GPUs on each node of a run [default: none].")
@click.option("--gres", metavar="SPEC", help="The same in SLURM's words: gpu:a100:2.")
@click.option(
    "--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="Cores, and threads, of each process."
)
@click.option("--memory", metavar="SIZE", help="On each node, as 16G.")
@click.option("--time", metavar="LIMIT", help="Of a task, as 4:00:00 [default: the partition's].")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes for each run.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes on each node of a run [default: as many as GPUs, else one].",
)
@click.option("--interface", metavar="NAME", help="The network interface over which processes meet, as ib0.")
@click.option("--array-parallel", type=click.IntRange(min=1), metavar="N", help="At most N tasks at a time.")
@click.option(
    "--signal-seconds",
    type=click.IntRange(min=1, max=65535),
    default=120,
    show_default=True,
    help="How long before the limit tasks are told to save.",
)
@click.option("--requeue/--no-requeue", default=True, show_default=True, help="Go on by itself after a preemption.")
@click.option("--collect/--no-collect", default=True, show_default=True, help="Evaluate, tabulate and plot afterwards.")
@click.option(
    "--prologue",
    type=click.Path(path_type=Path),
    help="A file of bash that each job begins with: modules, a virtual environment.",
)
@click.option("--command", "harness", metavar="TEXT", help="What starts the harness in a job [default: this Python's].")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the grid file.")
@out_option
@data_option
def submit(grid: str, **options: Any) -> None:
    """Submit the unfinished runs of GRID to SLURM, a task of a job array for each stack; what is queued stays."""
    from harness.commands.submit import submit as command

    click.echo(command(grid, **options))


@main.group()
def extractor() -> None:
    """In-domain classifiers, whose features metrics compare where Inception is out of place."""


@extractor.command(
    epilog="""\b
Examples:
  harness extractor fit --dataset mnist -o classifier-mnist.safetensors
  harness extractor fit --dataset npz:mine.npz -o mine.safetensors
  harness evaluate --samples made.npz --dataset npz:mine.npz --extractor mine.safetensors --metrics fid,precision,recall
"""
)
@click.option("--dataset", required=True, help="A data set with labels.")
@click.option("--steps", type=click.IntRange(min=1), help="Updates of the classifier [default: 5000].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .safetensors file."
)
@data_option
def fit(dataset: str, steps: int | None, seed: int, output: Path, data: Path | None) -> None:
    """Train a classifier of a data set's images; its features and class scores serve `harness evaluate --extractor`."""
    from harness.commands.extractor import fit as command

    say(command(dataset, output, steps=steps, seed=seed, data=data))


@main.command(name="list", epilog="Example:  harness list losses")
@click.argument(
    "kind",
    type=click.Choice(
        ["datasets", "extractors", "grids", "losses", "methods", "metrics", "models", "optimizers", "penalties"]
    ),
)
def list_(kind: str) -> None:
    """Print the names that a grid file may use."""
    from harness.commands.names import names

    for name in names(kind):
        click.echo(name)


@main.command(
    epilog="""\b
Examples:
  harness bench train --format json
  harness bench parzen -o results/bench/parzen.json
  harness bench packed --members 16
  harness bench packed --grid my-grid.toml --data ~/data      measure its stacks and recommend a stack_size
"""
)
@click.argument("name", type=click.Choice(["collect", "fid", "packed", "parzen", "start", "train"]))
@click.option("--grid", help="packed: the grid file (or shipped grid) to measure [default: the demo's mlp runs].")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="packed: folder of the grid's data sets [default: $HARNESS_DATA, else ~/.cache/harness].",
)
@click.option("--members", type=click.IntRange(min=2), help="packed: at most this many runs of a shape [default: 36].")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write the figures to this JSON file too.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def bench(name: str, output: Path | None, form: str, **options: Any) -> None:
    """Time the harness beside a plain reference, in turns on this machine.

    train: a step beside a bare loop; packed: stacks beside single runs; parzen: the metric beside its matrix product;
    fid: Frechet distance, precision and recall beside torch-fidelity's;
    start: commands beside the import of torch; collect: frame and status of 10,000 runs beside the reading of their
    files. With the roofline: matrix products and copies as fast as they go here.
    """
    from harness import benchmarks
    from harness.watching import progress_bar

    with progress_bar() as progress:
        figures = benchmarks.run(name, options, progress=progress)
    click.echo(benchmarks.render(figures, form))
    if output is not None:
        benchmarks.write(figures, output)


def _stack_places(given: Sequence[str]) -> tuple[int, ...]:
    """The numbers of --stack."""
    words = [word.strip() for text in given for word in text.split(",")]
    if wrong := [word for word in words if not word.isdecimal()]:
        raise click.UsageError(f"--stack {wrong[0]!r}: give places in grid.json, from 0, as in --stack 3,5.")
    return tuple(map(int, words))


def is_main() -> bool:
    """Whether this is the only process of its job, or the first."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a result, once for all processes of a job."""
    if is_main():
        click.echo(text)


def entry(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, or the error's code with one message on stderr."""
    try:
        given = list(arguments) if arguments is not None else None
        code = main.main(given, prog_name="harness", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except Stranded as error:
        click.echo(f"harness: {error}", err=True)
        os._exit(error.exit_code)  # a tidy exit would wait for the others
    except HarnessError as error:
        _leave(f"harness: {error}", error.exit_code)
    except OSError as error:
        told = storage_error(error, error.filename or "a file", verb="use")
        _leave(f"harness: {told}", told.exit_code)
    except click.UsageError as error:
        _leave(f"{error.ctx.get_usage() if error.ctx else ''}\nError: {error.format_message()}", error.exit_code)
    except click.ClickException as error:
        _leave(f"Error: {error.format_message()}", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _leave("harness: interrupted", 130)


def _leave(message: str, code: int) -> None:
    """Exit after the main process has told why; the others wait, since a launcher ends all when one ends."""
    if is_main():
        click.echo(message, err=True)
    else:
        time.sleep(_PATIENCE_SECONDS)
    sys.exit(code)
