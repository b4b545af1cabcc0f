"""A toy pipeline in a scratch repository: stages that work, fail or hang as params.yaml says, and leave traces."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]

# A PNG of one grey pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="

# Every attempt leaves its name, so that what really ran can be counted beside what Prefect says.
WORK = r"""
import base64, json, os, pathlib, signal, subprocess, sys, time, yaml

name, out = sys.argv[1], pathlib.Path(sys.argv[2])
do = yaml.safe_load(open("params.yaml"))[name]["do"]
with open("attempts.log", "a") as log:
    print(name, file=log)
print(f"{name} says hello", flush=True)
first = pathlib.Path("attempts.log").read_text().split().count(name) == 1
if do == "bug":
    print("boom on stderr", file=sys.stderr)
    {}["no such key"]
if do == "mistake":
    print("error: toy.size is -1; allowed: a positive number", file=sys.stderr)
    sys.exit(2)
if do == "storage fails once" and first:
    sys.exit("Could not connect to the endpoint URL: \"http://127.0.0.1:9/\"")
if do == "long":
    for number in range(100):
        print(f"line {number}")
    sys.exit(1)
if do == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("pids").write_text(json.dumps([child.pid, os.getpid()]))
    print("hanging", flush=True)
    time.sleep(600)
if do in ("save", "deaf"):
    told = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    pathlib.Path("pids").write_text(json.dumps([os.getpid()]))
    while not told or do == "deaf":
        time.sleep(0.02)
    time.sleep(1)  # the step that goes on
    for line in range(5000):
        print(f"saving part {line} of a checkpoint")  # more than a pipe holds
    pathlib.Path("checkpoint").write_text(f"{len(told)} signal")
    print("checkpoint saved", flush=True)
    sys.exit(143)
out.parent.mkdir(parents=True, exist_ok=True)
if name == "compare":
    rows = [{"sample": "a-ddim", "quality": {"fd": 1.5}, "speed": {"images_per_second": 20}}, {"sample": "b-ddim"}]
    out.write_text(json.dumps({"samples": rows}))
    grid = pathlib.Path("samples/a-ddim/grid.png")
    grid.parent.mkdir(parents=True, exist_ok=True)
    grid.write_bytes(base64.b64decode("PIXEL"))
else:
    out.write_text(f"{name} {do}")
""".replace("PIXEL", PIXEL)

PIPELINE = """
stages:
  prepare:
    cmd: python work.py prepare data/prepared.txt
    deps: [work.py]
    params: [prepare]
    outs: [data/prepared.txt]
  train:
    matrix:
      run: [a, b]
    cmd: python work.py train-${item.run} runs/${item.run}/model.txt
    deps: [work.py, data/prepared.txt]
    params: ["train-${item.run}"]
    outs: ["runs/${item.run}/model.txt"]
  compare:
    cmd: python work.py compare reports/compare.json
    deps: [work.py, runs/a/model.txt, runs/b/model.txt]
    params: [compare]
    metrics: [reports/compare.json: {cache: false}]
  aside:
    cmd: python work.py aside aside.txt
    deps: [work.py]
    params: [aside]
    outs: [aside.txt]
"""
WORKING = {name: {"do": "work"} for name in ("prepare", "train-a", "train-b", "compare", "aside")}


class Toy:
    """A git repository with this one's .dvc/config, flows and prefect.yaml, and the toy pipeline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (".dvc", "flows", "pipeline", "services"):
            ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "remote", "config.local")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        shutil.copy(REPOSITORY / "prefect.yaml", folder)
        (folder / "work.py").write_text(WORK)
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / ".gitignore").write_text("__pycache__/\n/.prefect/\n/attempts.log\n/pids\n/checkpoint\n")
        self.set()
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        self.commit()

    def commit(self) -> None:
        identity = ["-c", "user.name=toy", "-c", "user.email=toy@localhost"]
        for command in (["add", "."], [*identity, "commit", "--quiet", "--message", "toy"]):
            subprocess.run(["git", *command], cwd=self.folder, check=True)

    def set(self, **changes: str) -> None:
        """What each stage does, by stage name with _ for -; those not named work."""
        values = WORKING | {name.replace("_", "-"): {"do": do} for name, do in changes.items()}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values))

    def attempts(self) -> list[str]:
        """Names of all executions since the last call."""
        file = self.folder / "attempts.log"
        names = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return names
