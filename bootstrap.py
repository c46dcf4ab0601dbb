"""Sets up a virtual environment beside this file and runs the main job or the checks. Needs only Python 3.11+.

    python bootstrap.py demo     all weights of ResNet-50 in one forward pass, judged on real images
    python bootstrap.py check    format, lint, types, tests
    python bootstrap.py install  only the environment, with everything

Torch is installed first and pinned, so that no other package can pull another build. On a machine without an NVIDIA
GPU a CUDA build is refused before it is downloaded.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".venv"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
TORCH = "torch==2.13.0"
EVERYTHING = "models,zoo,hub,train,corpus,search,optuna,dask,wandb,dgl,pyg,dev"
EXTRAS = {"demo": "models", "check": EVERYTHING, "install": EVERYTHING}
CHECKS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("ty", "check", "--error-on-warning"),
    ("python", "-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile"),
)


def main(argv: list[str]) -> int:
    if len(argv) < 1 or argv[0] not in EXTRAS:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036  (the interpreter that runs this may be any)
        print(f"bootstrap: error: Python 3.11 or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    job, rest = argv[0], argv[1:]
    prepare(EXTRAS[job])
    if job == "demo":
        return run("ghn", "demo", *rest)
    for command in CHECKS if job == "check" else ():
        print("$", *command, flush=True)
        code = run(*command, *(rest if "pytest" in command else ()))
        if code:
            return code
    return 0


def prepare(extras: str) -> None:
    """The environment with the project installed editable; nothing is done where that is so already."""
    stamp, wanted = ENV / "installed.txt", f"{extras}\n{(ROOT / 'pyproject.toml').read_text()}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not (BIN / "python").exists() and not (BIN / "python.exe").exists():
        print(f"creating {ENV.name}", flush=True)
        venv.create(ENV, with_pip=True)
    refuse_cuda()
    pip("install", "--quiet", TORCH)
    pip("install", "--quiet", TORCH, "-e", f"{ROOT}[{extras}]")
    stamp.write_text(wanted)


def refuse_cuda() -> None:
    """Stops before gigabytes of CUDA are downloaded for a machine that cannot use them."""
    if shutil.which("nvidia-smi"):
        return
    report = pip("install", "--dry-run", "--quiet", "--report", "-", TORCH, capture=True)
    names = [item["metadata"]["name"] for item in json.loads(report)["install"]]
    if any(name.startswith(("nvidia", "cuda")) for name in names):
        sys.exit(
            f"bootstrap: error: pip would take a CUDA build of {TORCH} and this machine has no NVIDIA GPU. Point pip "
            "at PyTorch's CPU wheels (see 'Get started' on the PyTorch site, or set PIP_EXTRA_INDEX_URL) and run "
            "this again."
        )


def pip(*args: str, capture: bool = False) -> str:
    print("pip", *args, flush=True, file=sys.stderr)
    command = [str(BIN / "python"), "-m", "pip", "--disable-pip-version-check", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True)
    if done.returncode:
        sys.exit(f"bootstrap: error: pip failed; the reason is above. Remove {ENV} to start afresh.")
    return done.stdout or ""


def run(*command: str) -> int:
    return subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
