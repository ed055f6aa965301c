"""`calico fleet`: web servers without a model, and replicas on Ray, on one machine or several."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from backend.cli.options import DataDirOption, command_settings
from backend.cli.tables import print_fitted
from backend.errors import FleetError
from backend.fleet.connection import is_one_machine, ray_environment, require_ray
from backend.fleet.deployments import FleetSize, deploy, replica_variables
from backend.fleet.holding import HoldingEvents, end_all, hold, start_watch
from backend.fleet.machine import (
    FleetFolder,
    address_towards,
    head_command,
    host_command,
    is_listening,
    node_command,
    wait_until,
    web_command,
)
from backend.fleet.trainers import place_trainers
from backend.learning.supervisor import TrainerWatch
from backend.serving.logs import LogFormat, start_logging
from backend.serving.metrics import package_version
from backend.settings import Settings, as_variables, export_variables, is_loopback, variable_name

_ADDRESS = "127.0.0.1:6390"
_LAST_PORT = 65_535

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help=f"Of the head, as all machines reach it. [CALICO_FLEET_ADDRESS, {_ADDRESS}]",
    ),
]
WebOption = Annotated[int, typer.Option("--web", min=0, help="Web servers on this machine.")]
PortOption = Annotated[
    int | None, typer.Option("--port", help="Of the first web server here. [CALICO_PORT, 9090]")
]
ClickOption = Annotated[
    int, typer.Option("--click", min=2, help="Replicas for what somebody waits for.")
]
MostClickOption = Annotated[
    int | None, typer.Option("--most-click", help="Up to so many of them under load. [--click]")
]
MostBatchOption = Annotated[
    int, typer.Option("--most-batch", min=1, help="Up to so many of them while there is work.")
]
BatchOption = Annotated[
    int, typer.Option("--batch", min=0, help="Replicas for other tasks that always run.")
]
TrainersOption = Annotated[int, typer.Option("--trainers", min=0, help="Trainers.")]
CpusOption = Annotated[
    float, typer.Option("--cpus", min=0.1, help="Cores that one replica counts for.")
]
GpusOption = Annotated[
    float,
    typer.Option("--gpus", min=0, help="Graphics cards that one replica counts for; 0.5 shares."),
]
SlotsOption = Annotated[
    int | None,
    typer.Option(
        "--slots", min=0, help="Cores this machine counts for; 0 keeps replicas and trainers away."
    ),
]


def fleet_up(
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    web: WebOption = 2,
    port: PortOption = None,
    click: ClickOption = 2,
    most_click: MostClickOption = None,
    batch: BatchOption = 0,
    most_batch: MostBatchOption = 1,
    trainers: TrainersOption = 1,
    cpus: CpusOption = 1.0,
    gpus: GpusOption = 0.0,
    slots: SlotsOption = None,
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", help="Other machines to join, separated by commas, over --ssh."),
    ] = None,
    ssh: Annotated[str, typer.Option("--ssh", help="How to reach them.")] = "ssh -tt",
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Ray's pages, on this machine alone.")
    ] = True,
) -> None:
    """Run the head of a fleet, its replicas, trainers and web servers until Ctrl-C or SIGTERM.

    It makes a token, without which nobody can talk to the fleet: DATA_DIR/fleet/token. What ends is
    started again. On loopback the fleet is this machine; with --address, others can join it. The
    network between them must be private: the token keeps others out, but nothing is encrypted.

    Needs PostgreSQL (CALICO_DATABASE_URL) and calico-labeling[fleet].

    Example: calico fleet up --click 2 --most-batch 1 --trainers 1
    """
    settings = _settings(data_dir, address, port)
    folder = _folder(settings)
    if (held := folder.read_state()) is not None:
        raise FleetError(f"a fleet runs here already (process {held[0]}, {held[1]})")
    size = FleetSize(click, most_click or click, batch, most_batch, cpus, gpus)
    _check_ports(settings, web)
    head, head_port = _host_and_port(settings)
    others = [host.strip() for host in (hosts or "").split(",") if host.strip()]
    if others and is_loopback(head):
        raise FleetError(f"{_place(settings, address)}: other machines cannot reach {head}")
    if is_listening(head, head_port):
        place = _place(settings, address)
        raise FleetError(f"{place}: something listens on {head}:{head_port} already")
    needed = round((size.most_click + size.most_batch) * cpus + trainers + 0.49)
    here = max(needed if not others else 0, os.cpu_count() or 1) if slots is None else slots
    require_ray()
    folder.make_token()
    _export(settings)
    folder.write_state(settings.fleet_address or "")
    events = HoldingEvents()
    head_words = head_command(head, head_port, slots=here, dashboard=dashboard)
    watches = [start_watch(head_words, "head", on_death=events.redeploy.set)]
    events.redeploy.set()

    def redeploy() -> None:
        wait_until(lambda: is_listening(head, head_port), "the head", events.stop)
        subprocess.run(_deploy_command(size, trainers), check=True)

    try:
        shell = shlex.split(ssh)
        watches += [
            start_watch(host_command(shell, host, settings.fleet_address or ""), f"machine {host}")
            for host in others
        ]
        hold(_start_web(settings, web, watches), events, redeploy, "the fleet is up", _say)
    finally:
        end_all(watches, folder)


def fleet_join(
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    node_address: Annotated[
        str | None,
        typer.Option("--node-address", help="Of this machine; that towards the head if unset."),
    ] = None,
    web: WebOption = 0,
    port: PortOption = None,
    slots: SlotsOption = None,
) -> None:
    """Run this machine as a part of a fleet until Ctrl-C or SIGTERM.

    The token of the fleet must be in DATA_DIR/fleet/token, or CALICO_FLEET_TOKEN_FILE. Web servers
    here read their settings from the environment, as `calico serve` does. Needs CALICO_DATABASE_URL
    and calico-labeling[fleet].

    Example: calico fleet join --address 10.0.0.1:6390
    """
    settings = _settings(data_dir, address, port)
    folder = _folder(settings)
    if not folder.token_file.exists():
        raise FleetError(f"no token at {folder.token_file}: copy that of the head")
    _check_ports(settings, web)
    head, head_port = _host_and_port(settings)
    if is_one_machine(head):
        place = _place(settings, address)
        raise FleetError(f"{place}: {head} is this machine; give the address of the head")
    require_ray()
    events = HoldingEvents()
    _export(settings)
    here = node_address or address_towards(head, head_port)
    watches = [start_watch(node_command(settings.fleet_address or "", here, slots=slots), "node")]
    try:
        hold(_start_web(settings, web, watches), events, lambda: None, "this machine joins", _say)
    finally:
        end_all(watches, folder)


def fleet_status(
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON instead.")
    ] = False,
) -> None:
    """Show the machines, replicas and trainers of a fleet. Ends with 1 if something is missing.

    Example: calico fleet status
    """
    from backend.fleet.overview import read_overview

    overview = read_overview(connected_settings(data_dir, address))
    if as_json:
        typer.echo(msgspec.json.encode(overview).decode())
    else:
        machines = Table("machine", "state", title="Machines")
        for machine in overview.machines:
            machines.add_row(machine.address, "there" if machine.is_alive else "missing")
        pools = Table("replicas", "state", "running", "wanted", title="Replicas")
        for pool in overview.pools:
            pools.add_row(pool.name, pool.state, str(pool.running), str(pool.wanted))
        replicas = Table("process", "release", "weights", "waiting", title="Click replicas")
        for one in overview.replicas:
            replicas.add_row(one.owner, one.release, one.weights, str(one.waiting))
        print_fitted(machines, pools, replicas)
        typer.echo(f"trainers: {overview.trainers}")
        for problem in overview.problems:
            typer.secho(problem, fg=typer.colors.YELLOW, err=True)
    if overview.problems:
        raise typer.Exit(1)


def fleet_upgrade(
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    click: ClickOption = 2,
    most_click: MostClickOption = None,
    batch: BatchOption = 0,
    most_batch: MostBatchOption = 1,
    trainers: TrainersOption = 1,
    cpus: CpusOption = 1.0,
    gpus: GpusOption = 0.0,
    keep_web: Annotated[
        bool, typer.Option("--keep-web", help="Leave the web servers as they are.")
    ] = False,
) -> None:
    """Replace replicas, trainers and this machine's web servers, one after another.

    For a new release (install it first, on every machine), new weights, other settings or another
    size. While one is replaced, the others answer. Begin with `calico migrate`. Give the options of
    `calico fleet up` again: what is left out gets its default.

    Example: calico fleet upgrade --click 3 --most-click 4
    """
    settings = connected_settings(data_dir, address)
    size = FleetSize(click, most_click or click, batch, most_batch, cpus, gpus)
    deploy(settings, size, release=_release())
    place_trainers(settings, replica_variables(settings), trainers, cpus=1.0, gpus=0.0)
    held = None if keep_web else _folder(settings).read_state()
    if held is not None:
        os.kill(held[0], signal.SIGHUP)
    follow = "" if held is None else "; web servers follow, one after another"
    typer.echo(f"replicas and trainers are in place{follow}", err=True)


def fleet_down(data_dir: DataDirOption = None, address: AddressOption = None) -> None:
    """End the fleet's processes on this machine, also those a killed node has left behind.

    Example: calico fleet down
    """
    folder = _folder(_settings(data_dir, address, None))
    held = folder.read_state()
    if held is not None:
        with suppress(ProcessLookupError):
            os.kill(held[0], signal.SIGTERM)
        wait_until(lambda: folder.read_state() is None, "the fleet's end", threading.Event())
    killed = folder.clear()
    folder.state_file.unlink(missing_ok=True)
    typer.echo("nothing of the fleet runs here" + (f"; {killed} were killed" if killed else ""))


def _settings(data_dir: Path | None, address: str | None, port: int | None) -> Settings:
    """Reads the settings; address and token have places of their own unless they are set."""
    settings = command_settings(data_dir=data_dir, port=port, fleet_address=address)
    start_logging(settings.log_level, LogFormat(settings.log_format))
    token = settings.fleet_token_file or FleetFolder(settings.data_dir / "fleet").token_file
    return command_settings(
        data_dir=settings.data_dir.absolute(),
        port=port,
        fleet_address=settings.fleet_address or _default_address(settings),
        fleet_token_file=token.absolute(),
    )


def _folder(settings: Settings) -> FleetFolder:
    token = settings.fleet_token_file
    return FleetFolder(settings.data_dir / "fleet" if token is None else token.parent)


def _default_address(settings: Settings) -> str:
    """Returns the address of the head that runs here, or the one that it has unless told."""
    held = _folder(settings).read_state()
    return _ADDRESS if held is None else held[1]


def connected_settings(data_dir: Path | None, address: str | None) -> Settings:
    """Reads the settings of a process that joins a fleet, with its address and token.

    Raises:
        FleetError: nothing listens at the address.
    """
    settings = _settings(data_dir, address, None)
    head, port = _host_and_port(settings)
    if not is_listening(head, port):
        place = _place(settings, address)
        raise FleetError(f"{place}: no fleet at {head}:{port}; calico fleet up starts one")
    return settings


def _host_and_port(settings: Settings) -> tuple[str, int]:
    host, _, port = (settings.fleet_address or _ADDRESS).rpartition(":")
    return host, int(port)


def _place(settings: Settings, address: str | None) -> str:
    """Returns where the user gave, or can give, the address of the head, for messages."""
    is_variable = address is None and settings.fleet_address != _default_address(settings)
    return variable_name("fleet_address") if is_variable else "--address"


def _check_ports(settings: Settings, web: int) -> None:
    last = settings.port + web - 1
    if last > _LAST_PORT:
        raise FleetError(
            f"--web: expected at most {_LAST_PORT - settings.port + 1}, "
            f"whose ports are {settings.port} to {_LAST_PORT}, got {web}"
        )


def _export(settings: Settings) -> None:
    """Puts into the environment what the processes of the fleet read."""
    export_variables(as_variables(settings) | ray_environment(settings))


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _release() -> str:
    """Names a deployment; never the same twice, so that all replicas are replaced."""
    return f"{package_version()} {datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"


def _deploy_command(size: FleetSize, trainers: int) -> list[str]:
    """Returns a command that puts replicas and trainers in place, in a process of its own."""
    options = {
        "--click": size.click,
        "--most-click": size.most_click,
        "--batch": size.batch,
        "--most-batch": size.most_batch,
        "--cpus": size.cpus,
        "--gpus": size.gpus,
        "--trainers": trainers,
    }
    words = [sys.executable, "-m", "backend.cli", "fleet", "upgrade", "--keep-web"]
    return [*words, *(str(word) for option in options.items() for word in option)]


def _start_web(
    settings: Settings, count: int, watches: list[TrainerWatch]
) -> list[tuple[int, TrainerWatch]]:
    servers = []
    for number in range(count):
        port = settings.port + number
        watch = start_watch(web_command(settings, port), f"server on port {port}")
        watches.append(watch)
        servers.append((port, watch))
    return servers
