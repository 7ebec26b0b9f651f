"""The files for clusters: their form, and the SLURM script with two processes, stopped and gone on with."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import yaml
from terminal import told

from reincli.settings_files import to_toml
from reincli.toml_files import tomllib

SOURCE = Path(__file__).parents[1]
CLUSTER = SOURCE / "docs" / "cluster"
TRAIN, BATCH = CLUSTER / "train.sh", CLUSTER / "train.sbatch"
needs_bash = pytest.mark.skipif(os.name == "nt", reason="the scripts are for bash")


# --- form --------------------------------------------------------------------------------------------------


@needs_bash
@pytest.mark.parametrize("script", [TRAIN, BATCH])
def test_scripts_are_bash_and_may_be_executed(script):
    assert script.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_slurm_is_asked_for_nodes_a_warning_and_another_go():
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", BATCH.read_text("utf-8"), re.M))
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "requeue", "open-mode", "signal"} <= set(
        asked
    )
    assert asked["ntasks-per-node"] == "1"  # torchrun starts a process for each GPU
    name, seconds = re.fullmatch(r"B:(\w+)@(\d+)", asked["signal"]).groups()
    assert name == "TERM"
    assert int(seconds) >= 60
    assert asked["open-mode"] == "append"  # the log goes on with the run
    lines = BATCH.read_text("utf-8").splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert (
        max(n for n, line in enumerate(lines) if line.startswith("#SBATCH")) < first
    )  # later ones are ignored


def job() -> dict:
    return yaml.safe_load((CLUSTER / "pytorchjob.yaml").read_text("utf-8"))


def test_the_job_has_a_master_and_workers_that_can_train():
    (kind, replicas), spec = (job()["kind"], job()["spec"]["pytorchReplicaSpecs"]), job()["spec"]
    assert (job()["apiVersion"], kind) == ("kubeflow.org/v1", "PyTorchJob")
    assert replicas["Master"]["replicas"] == 1
    for replica in replicas.values():
        assert replica["restartPolicy"] == "OnFailure"
        pod = replica["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == spec["nprocPerNode"]
        mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert set(mounted) == {each["name"] for each in pod["volumes"]}
        assert {"/work/data", "/work/checkpoints", "/work/work_dirs", "/dev/shm"} == set(mounted.values())
        assert pod["terminationGracePeriodSeconds"] > 30  # which torchrun gives its processes
    program, run, *options = container["command"]
    assert program == "rein-train"
    assert run.startswith("work_dirs/")
    assert "Usage" in told("train", *options, "--help")


def instructions() -> list[tuple[str, str]]:
    text = (CLUSTER / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_built_of_what_is_here_and_runs_as_nobody_special():
    words = [word for word, _ in instructions()]
    assert words[0] == "FROM"
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "ENV", "ENTRYPOINT", "CMD"}
    assert set(words) <= known
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text("utf-8").split()
    for word, rest in instructions():
        if word == "COPY":
            *sources, _ = [part for part in shlex.split(rest) if not part.startswith("--")]
            for source in sources:
                assert (SOURCE / source).exists(), source
                assert any(f"!{part}" in ignored for part in (source, *map(str, Path(source).parents))), (
                    source
                )
    assert dict(instructions())["USER"] not in ("root", "0")
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert json.loads(dict(instructions())["VOLUME"]) == [
        "/work/data",
        "/work/checkpoints",
        "/work/work_dirs",
    ]
    assert json.loads(dict(instructions())["ENTRYPOINT"]) == ["rein"]


def test_the_image_has_what_the_package_needs_to_be_built():
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text("utf-8"))
    copied = " ".join(rest for word, rest in instructions() if word == "COPY").split()
    for name in (project["project"]["readme"], *project["project"]["license-files"], "reincli", "presets"):
        assert name in copied
    extras = re.search(r"'\.\[([\w,]+)\]'", " ".join(rest for word, rest in instructions() if word == "RUN"))
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])


# --- what train.sh decides ---------------------------------------------------------------------------------


@pytest.fixture
def bin_folder(tmp_path) -> Path:
    """Stand-ins on the path, each of which says how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def stand_in(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n", "utf-8")
    (folder / name).chmod(0o755)


def environment(bin_folder: Path, **variables: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PET_", "REIN_"))
    }
    path = f"{bin_folder}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **variables}


def decided(bin_folder: Path, *words: str, **variables: str) -> list[str]:
    stand_in(bin_folder, "torchrun", 'printf "%s\\n" "$@"')
    done = subprocess.run(["bash", TRAIN, *words], cwd=bin_folder.parent, env=environment(bin_folder, **variables),
                          text=True, capture_output=True, check=True)  # fmt: skip
    return done.stdout.splitlines()


@needs_bash
def test_a_new_run_is_begun_with_its_options(bin_folder):
    assert decided(bin_folder, "work dirs/r", "--preset", "demo", "--set", "name = 'a b'") == [
        "-m", "reincli", "train", "--work-dir", "work dirs/r", "--preset", "demo", "--set", "name = 'a b'",
    ]  # fmt: skip


@needs_bash
def test_a_run_that_is_there_is_gone_on_with(bin_folder):
    run = bin_folder.parent / "r"
    run.mkdir()
    (run / "last.pth").touch()
    assert decided(bin_folder, "r", "--preset", "demo", REIN_OPTIONS="--device cpu") == [
        "-m", "reincli", "train", "--resume", "r", "--device", "cpu",
    ]  # fmt: skip


@needs_bash
@pytest.mark.parametrize(("node", "moved"), [("0", True), ("1", False)])
def test_one_without_a_checkpoint_is_moved_aside_by_the_first_node(bin_folder, node, moved):
    run = bin_folder.parent / "r"
    run.mkdir()
    (run / "settings.toml").write_text("kept")
    assert "--work-dir" in decided(bin_folder, "r", "--preset", "demo", SLURM_NODEID=node)
    assert run.exists() is not moved
    if moved:
        (aside,) = bin_folder.parent.glob("r.without-checkpoint.*")
        assert (aside / "settings.toml").read_text() == "kept"


@needs_bash
def test_wrong_use_is_said(bin_folder):
    done = subprocess.run(["bash", TRAIN, "r"], text=True, capture_output=True, env=environment(bin_folder))
    assert done.returncode == 2
    assert done.stderr.startswith("usage: train.sh RUN_DIR")


# --- the whole, with two processes -------------------------------------------------------------------------


@pytest.fixture
def slurm(bin_folder) -> dict[str, str]:
    """SLURM of one node with two "GPUs": srun runs its words here and hands SIGTERM on, as the real one does."""
    stand_in(bin_folder, "srun", 'shift\n"$@" & task=$!\ntrap "kill -TERM $task" TERM\nwait $task; code=$?\n'
             'if kill -0 $task 2> /dev/null; then wait $task; code=$?; fi\nexit $code')  # fmt: skip
    stand_in(
        bin_folder, "scontrol", 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> requeued; fi'
    )
    stand_in(bin_folder, "torchrun", f'exec {shlex.quote(sys.executable)} -m torch.distributed.run "$@"')
    return environment(
        bin_folder, SLURM_JOB_NUM_NODES="1", SLURM_GPUS_ON_NODE="2", SLURM_JOB_ID=str(os.getpid()),
        SLURM_JOB_NODELIST="n[1]", SLURM_NODEID="0", SLURM_SUBMIT_DIR=str(SOURCE), REIN_OPTIONS="--device cpu",
    )  # fmt: skip


def steps(run: Path) -> list[int]:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [entry["iteration"] for entry in map(json.loads, lines) if entry["kind"] == "step"]


@needs_bash
@pytest.mark.slow
def test_the_slurm_script_trains_stops_is_queued_again_and_ends(tmp_path, slurm):
    tiny.write_toy(tmp_path / "toy", count=5)
    settings = tiny.settings(
        "train.iterations=400", "train.batch_size=4", "train.log_every=1", "train.checkpoint_every=1000",
        "train.validate_every=0", "train.points=64", "data.workers=1", data=tiny.own_data(tmp_path / "toy"),
    )  # fmt: skip
    tiny.write_backbone(tmp_path / "backbone.pth", settings)
    (tmp_path / "toy.toml").write_text(to_toml(settings), "utf-8")
    words = ["bash", str(BATCH), "run", "--config", "toy.toml", "--backbone", "backbone.pth"]
    run = tmp_path / "run"
    first = subprocess.Popen(words, cwd=tmp_path, env=slurm, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)  # fmt: skip
    deadline = time.monotonic() + 240
    while len(steps(run)) < 5 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    printed = first.communicate(timeout=120)[0]
    assert first.returncode == 0, printed
    assert "stopped; queued again" in printed
    assert "2 x cpu" in printed
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    reached = steps(run)[-1]
    assert (run / f"iter_{reached}.pth").exists()  # saved because of the signal: none was due
    assert reached < 400

    text = (run / "settings.toml").read_text("utf-8")
    assert text.count("iterations = 400") == 1
    (run / "settings.toml").write_text(
        text.replace("iterations = 400", f"iterations = {reached + 5}"), "utf-8"
    )
    again = subprocess.run(words, cwd=tmp_path, env=slurm, text=True, capture_output=True, timeout=240)
    assert again.returncode == 0, again.stdout + again.stderr
    assert steps(run) == list(range(1, reached + 6))
    assert len((tmp_path / "requeued").read_text().splitlines()) == 1  # it had ended


@needs_bash
@pytest.mark.slow
def test_a_training_that_fails_is_not_queued_again(tmp_path, slurm):
    words = ["bash", str(BATCH), "run", "--config", "nothing.toml"]
    done = subprocess.run(words, cwd=tmp_path, env=slurm, text=True, capture_output=True, timeout=240)
    assert done.returncode != 0
    assert not (tmp_path / "requeued").exists()
