"""The command line: options and their help; each command imports and calls one function.

Nothing heavy is imported here, so that `rein --help` answers at once: torch alone takes seconds.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reincli.errors import ReinError
from reincli.options import (
    Backbone,
    Config,
    DataRoot,
    Device,
    ModeOption,
    Precision,
    PrecisionOption,
    Preset,
    Quiet,
    Sets,
    Style,
    examples,
)

app = typer.Typer(
    name="rein",
    help="Semantic segmentation that survives a change of domain: a frozen vision foundation model, "
    "Rein adapters and a Mask2Former head.",
    epilog="First steps:  rein doctor,  rein demo,  rein COMMAND --help",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry of the console script `rein`."""
    app(prog_name="rein")


@contextmanager
def _command(quiet: bool) -> Iterator[None]:
    """Run the body of a command; the one place where errors turn into a line and an exit code."""
    from reincli.commands import console

    console.configure(quiet=quiet)
    try:
        yield
    except ReinError as error:
        console.error(error.message, error.hint)
        raise typer.Exit(2 if error.usage else 1) from None
    except KeyboardInterrupt as interrupt:  # a command may put how far it came into the exception
        console.problem(f"Interrupted. {interrupt}".strip())
        raise typer.Exit(130) from None
    except OSError as error:
        sentence = _disk_sentence(error)
        if sentence is None:
            raise
        console.error(*sentence)
        raise typer.Exit(1) from None
    finally:
        console.configure(quiet=False)


def _disk_sentence(error: OSError) -> tuple[str, str] | None:
    """What is wrong and what to do, for the two disk errors that anyone may meet; None for others."""
    where = f" '{error.filename}'" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"No space left on the disk{' for' + where if where else ''}.",
            "Free some, or choose another folder.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission to read or write{where or ' a file'}.", "Check its owner and mode."
    return None


def _show_version(wanted: bool) -> None:
    if wanted:
        from reincli import __version__

        typer.echo(f"rein {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    """Semantic segmentation that survives a change of domain."""


@app.command(
    epilog=examples(
        "rein demo", "rein demo --out first --iters 40", "rein demo --ladder --seeds 3 --own mine.toml"
    )
)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is written.")] = Path(
        "rein-demo"
    ),
    iters: Annotated[
        int | None, typer.Option("--iters", min=1, help="Training steps; else as the preset `demo` says.")
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder", help="Train in full, frozen and with Rein, and compare. An hour and a half a seed."
        ),
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Of the ladder: how often each is trained.")
    ] = 1,
    own: Annotated[
        Path | None,
        typer.Option(
            "--own", metavar="FILE.toml", help="Of the ladder: own labelled images to score on too."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Walk the whole path on generated streets: train, evaluate, draw. CPU, about three minutes."""
    with _command(quiet):
        if ladder:
            from reincli.commands import demo_ladder

            demo_ladder.run(out=out, iterations=iters, seeds=seeds, own=own)
            return
        from reincli.commands import demo as command

        command.run(out=out, iterations=iters)


@app.command(
    epilog=examples("rein pretrain mine.safetensors --device cuda --steps 50000", "rein pretrain --steps 20")
)
def pretrain(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="The backbone. [dim]\\[default: checkpoints/mini.safetensors][/dim]"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Else as the shipped one was made.")
    ] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=256, help="Patches in a step.")] = None,
    lights: Annotated[
        int | None,
        typer.Option("--lights", min=1, help="Pictures of each world whose features shall be alike."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of weights and worlds.")] = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the small backbone anew that `rein demo` starts from: a ViT that learns from generated worlds."""
    with _command(quiet):
        from reincli.commands import pretrain as command

        command.run(target, steps=steps, tokens=tokens, lights=lights, seed=seed, device=device,
                    precision=precision.value, force=force)  # fmt: skip


@app.command(
    "prepare-data",
    epilog=examples(
        "rein prepare-data cityscapes",
        "rein prepare-data gta /disk/gta --workers 8",
        "rein prepare-data cityscapes-c --severity 3 --severity 5",
        "rein prepare-data gta --cache",
        "rein prepare-data mine --config mine.toml --check",
    ),
)
def prepare_data(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset.")],
    root: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ROOT]", help="Its folder. [dim]\\[default: data/DATASET][/dim]", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write here; else beside the originals.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. [dim]\\[default: one a core][/dim]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look: report what is missing or wrong.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Do again what is already done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Also write compact copies of the training pairs: they load faster."),
    ] = False,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="With --cache: keep every pixel (3 bytes each), not JPEG.")
    ] = False,
    severity: Annotated[
        list[int] | None,
        typer.Option("--severity", metavar="1-5", help="cityscapes-c: how strong; else 5. May be repeated."),
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption", metavar="NAME", help="cityscapes-c: which; else all 16. May be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="cityscapes-c: of what is drawn.")] = 0,
    config: Config = None,
    quiet: Quiet = False,
) -> None:
    """Turn a dataset, unpacked or as downloaded, into what training reads, or check what is there."""
    with _command(quiet):
        from reincli.commands import prepare_data as command

        command.run(
            dataset,
            root,
            out=out,
            workers=workers,
            check=check,
            force=force,
            as_json=as_json,
            config=config,
            severity=severity or (),
            corruption=corruption or (),
            seed=seed,
            cache=cache,
            lossless=lossless,
        )


@app.command(
    "convert-weights",
    epilog=examples(
        "rein convert-weights",
        "rein convert-weights --height 1024",
        "rein convert-weights dinov2_vits14_pretrain.pth checkpoints/dinov2_s_converted.safetensors",
        "rein convert-weights --kind sam_h --height 1024",
        "rein convert-weights work_dirs/mine/last.pth original.pth --kind original",
    ),
)
def convert_weights(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Raw weights. [dim]\\[default: the usual file of --kind under checkpoints/][/dim]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TARGET]",
            help="File to write. [dim]\\[default: named after the size][/dim]",
            show_default=False,
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option("--height", min=1, help="Image height in pixels. [dim]\\[default: 512][/dim]"),
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, help="Image width. [dim]\\[default: the height][/dim]")
    ] = None,
    patch: Annotated[int, typer.Option("--patch", min=1, help="Patch size to convert to.")] = 16,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="NAME",
            help="Backbone family, such as clip_l; or `original`: write a checkpoint back in the original's form.",
        ),
    ] = None,
    backbone: Backbone = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the target.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fit raw foundation weights to a patch and image size. (Optional: raw files are taken everywhere.)"""
    with _command(quiet):
        from reincli.commands import convert_weights as command

        command.run(
            source,
            target,
            height=height,
            width=width,
            patch=patch,
            kind=kind,
            backbone=backbone,
            force=force,
        )


@app.command(
    epilog=examples(
        "rein train --preset gta2citys",
        "rein train --preset gta2citys-vit_b --set optim.lr=6e-5 --work-dir work_dirs/slow",
        "rein train --config mine.toml --device cuda:1",
        "rein train --preset citys2acdc --gpus 4",
        "rein train --resume work_dirs/gta2citys",
    )
)
def train(
    preset: Preset = None,
    config: Config = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN_DIR", help="Go on with a run that was stopped.")
    ] = None,
    sets: Sets = None,
    backbone: Backbone = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            "--work-dir", metavar="DIR", help="Folder of the run. [dim]\\[default: work_dirs/NAME][/dim]"
        ),
    ] = None,
    data_root: DataRoot = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, metavar="N", help="GPUs of this machine that share each batch.")
    ] = 1,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="Arithmetic; else as the settings say.")
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train adapters and head. Give one of --preset, --config and --resume."""
    with _command(quiet):
        from reincli.commands import train as command

        command.run(
            preset=preset,
            config=config,
            resume=resume,
            sets=sets or [],
            backbone=backbone,
            work_dir=work_dir,
            data_root=data_root,
            gpus=gpus,
            precision=precision.value if precision else None,
            device=device,
        )


@app.command(
    "eval",
    epilog=examples(
        "rein eval work_dirs/gta2citys/last.pth",
        "rein eval checkpoints/dinov2_rein_and_head.pth --data cityscapes:val --size 2048x1024",
        "rein eval work_dirs/citys2acdc/last.pth --json acdc.json --report acdc.html --out predictions",
        "rein eval work_dirs/citys2acdc/last.pth --submit acdc.zip",
        "rein eval work_dirs/citys2citysc/last.pth --data cityscapes-c:all",
    ),
)
def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of ours or of the original.")
    ],
    preset: Preset = None,
    config: Config = None,
    backbone: Backbone = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="NAME[:SPLIT]", help="What to score on; else as the settings say. Repeatable."
        ),
    ] = None,
    sets: Sets = None,
    mode: ModeOption = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over six sizes of each image and their mirror images.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="native|WxH", help="Test size; else the setting's own for each dataset."
        ),
    ] = None,
    data_root: DataRoot = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the label maps here.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON.")
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page with scores and images."),
    ] = None,
    submit: Annotated[
        Path | None,
        typer.Option(
            "--submit", metavar="FILE.zip", help="Write what the benchmark of ACDC's test images takes."
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score what has image and label; say how many have not.")
    ] = False,
    own: Annotated[
        Path | None,
        typer.Option("--own", metavar="FILE.toml", help="Score on own data described here instead."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint: IoU of each class in each domain, and the means."""
    with _command(quiet):
        from reincli.commands import evaluate as command

        command.run(
            checkpoint,
            preset=preset,
            config=config,
            backbone=backbone,
            data=data or [],
            sets=sets or [],
            mode=mode.value if mode else None,
            tta=tta,
            size=size,
            data_root=data_root,
            precision=precision.value,
            device=device,
            out=out,
            json_file=json_file,
            report_file=report_file,
            submit=submit,
            allow_missing=allow_missing,
            own=own,
        )


@app.command(
    epilog=examples("rein compare a.json b.json", "rein compare a.json b.json --json differences.json")
)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="What rein eval --json wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The same of another model.")],
    draws: Annotated[int, typer.Option("--draws", min=100, help="Bootstrap samples of the images.")] = 2000,
    level: Annotated[
        float, typer.Option("--level", min=50.0, max=99.9, help="Of the intervals, in percent.")
    ] = 95.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the differences as JSON.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Say by how much B is better than A, by class and domain, and whether chance may explain it."""
    with _command(quiet):
        from reincli.commands import compare as command

        command.run(first, second, draws=draws, level=level, seed=seed, json_file=json_file)


@app.command(
    epilog=examples(
        "rein visualize street.jpg",
        "rein visualize drive/ --style side --out shown",
        "rein visualize 'drive/*_rgb.png' --checkpoint work_dirs/gta2citys/last.pth --labels",
        "rein visualize drive.mp4 --start 1:20 --end 2:00 --style boundary",
        "rein visualize val/images --gt val/labels --style error --sheet",
        "rein visualize night/ --checkpoint rein/last.pth --compare frozen/last.pth",
        "rein visualize camera:0 --end 30",
    )
)
def visualize(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Images, videos, folders, globs, lists of paths (.txt), camera:0."
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="Whose prediction. [dim]\\[default: the newest run][/dim]"
        ),
    ] = None,
    backbone: Backbone = None,
    preset: Preset = None,
    config: Config = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")] = Path(
        "work_dirs/show"
    ),
    style: Annotated[Style, typer.Option("--style", help="How a prediction is drawn.")] = Style.overlay,
    alpha: Annotated[float, typer.Option("--alpha", min=0.0, max=1.0, help="Weight of the colours.")] = 0.5,
    legend: Annotated[
        bool, typer.Option("--legend/--no-legend", help="Name the colours below the picture.")
    ] = True,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Draw faintly where the model is unsure.")
    ] = False,
    truth: Annotated[
        Path | None,
        typer.Option("--gt", metavar="DIR|FILE", help="Right labels (class indices), for the style error."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="A second checkpoint, drawn beside the first."),
    ] = None,
    compare_backbone: Annotated[
        Path | None,
        typer.Option("--compare-backbone", metavar="FILE", help="Its backbone; else that of the first."),
    ] = None,
    compare_preset: Annotated[
        str | None,
        typer.Option("--compare-preset", metavar="NAME", help="Its setting, where it carries none."),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Also write NAME_labelTrainIds.png.")] = False,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write a contact sheet of all drawings, PNG and HTML.")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--start", metavar="TIME", help="Of a video: from here, e.g. 80 or 1:20.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="Of a video or camera: until here.")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Take one of so many images or frames.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Draw again what is already drawn.")] = False,
    mode: ModeOption = None,
    size: Annotated[
        str, typer.Option("--size", metavar="native|WxH", help="Predict at the image's own size or another.")
    ] = "native",
    suffix: Annotated[
        str | None, typer.Option("--suffix", metavar="TEXT", help="From folders, only names that end so.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option("--match", metavar="GLOB", help="From folders, only paths that match, e.g. '*/fog/*'."),
    ] = None,
    precision: PrecisionOption = Precision.auto,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw predictions on images, videos and what a camera sees."""
    with _command(quiet):
        from reincli.commands import visualize as command

        command.run(
            inputs,
            checkpoint=checkpoint,
            backbone=backbone,
            preset=preset,
            config=config,
            out=out,
            style=style.value,
            alpha=alpha,
            legend=legend,
            confidence=confidence,
            truth=truth,
            compare=compare,
            compare_backbone=compare_backbone,
            compare_preset=compare_preset,
            labels=labels,
            sheet=sheet,
            force=force,
            mode=mode.value if mode else None,
            size=size,
            start=start,
            end=end,
            every=every,
            precision=precision.value,
            device=device,
            suffix=suffix,
            match=match,
        )


@app.command(
    epilog=examples(
        "rein bench",
        "rein bench --preset demo",
        "rein bench --preset citys2acdc --what slide --size 2048x1024 --json slide.json",
        "rein bench --what training --batch 4 --precision bf16 --set train.checkpoint_activations=true",
        "rein bench --checkpoint work_dirs/gta2citys/last.pth --what inference --compile --cuda-graphs",
    )
)
def bench(
    preset: Preset = None,
    config: Config = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Adapters and head; else random weights."),
    ] = None,
    backbone: Backbone = None,
    what: Annotated[
        str | None,
        typer.Option(
            "--what", metavar="LIST", help="Of inference (a whole crop), slide, training; else all."
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", metavar="LIST", help="Images at a time; else 1, on a GPU 1,4,16."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", metavar="LIST", help="Arithmetic; else auto, on a GPU fp32,bf16."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Image for slide; else as the setting tests."),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option("--runs", min=1, help="Calls timed; else 5, on a GPU 50. At most ten seconds a row."),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile fuse the model: minutes more.")
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Record and replay the launches of inference on a GPU.")
    ] = False,
    device: Device = "auto",
    sets: Sets = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure speed and memory here: by work, batch size and precision, and by part of the model."""
    with _command(quiet):
        from reincli.commands import bench as command

        command.run(
            preset=preset,
            config=config,
            checkpoint=checkpoint,
            backbone=backbone,
            what=what,
            batch=batch,
            precision=precision,
            size=size,
            runs=runs,
            compile_=compile_,
            cuda_graphs=cuda_graphs,
            device=device,
            sets=sets or [],
            json_file=json_file,
        )


@app.command(epilog=examples("rein presets", "rein presets gta2citys > mine.toml"))
def presets(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this one in full, as TOML.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """List the settings with their published scores, or print one resolved."""
    with _command(quiet):
        from reincli.commands import presets as command

        command.run(name)


@app.command(epilog=examples("rein doctor", "rein doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show versions, devices, precision, and which data and weights are in place."""
    with _command(quiet):
        from reincli.commands import doctor as command

        command.run(as_json=as_json)
