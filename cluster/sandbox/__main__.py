"""Start, look at, hurt and remove a private Slurm of several nodes on this machine.

    eval "$(python -m cluster.sandbox up)"
    srun --nodes=4 --ntasks-per-node=4 --gres=gpu:4 hostname
    python -m cluster.sandbox down

More in docs/sandbox.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from cluster.exit_on_signals import exit_on_signals
from cluster.sandbox import (
    CommandError,
    Isolation,
    MissingPackagesError,
    Sandbox,
    SandboxError,
    SandboxLayoutError,
    SandboxShape,
)
from cluster.sandbox.sandbox import default_directory
from cluster.sandbox.slots import NoFreeSlotError


def main(argv: list[str]) -> int:
    """Do what the command line says.

    Returns:
        0, or 1 if it failed, or 2 if packages are missing.
    """
    arguments = _parser().parse_args(argv)
    # So that an `up` that is told to end, or whose terminal is closed, takes its daemons with it.
    exit_on_signals()
    try:
        arguments.act(arguments)
    except MissingPackagesError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2
    except (SandboxError, SandboxLayoutError, NoFreeSlotError, CommandError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


def _up(arguments: argparse.Namespace) -> None:
    shape = SandboxShape(nodes=arguments.nodes, gpus_per_node=arguments.gpus_per_node)
    sandbox = Sandbox.start(shape, arguments.dir or default_directory(arguments.name), arguments.isolation)
    # The one line on standard output is made for `eval`.
    print(f"export SLURM_CONF={sandbox.layout.slurm_conf_path}")
    print(_summary(sandbox), file=sys.stderr)


def _down(arguments: argparse.Namespace) -> None:
    _open(arguments).stop()


def _status(arguments: argparse.Namespace) -> None:
    sandbox = _open(arguments)
    print(_summary(sandbox), f"export SLURM_CONF={sandbox.layout.slurm_conf_path}", sep="\n")
    print(sandbox.run("sinfo", timeout_s=20), sandbox.run("squeue", timeout_s=20), sep="\n", end="")


def _open(arguments: argparse.Namespace) -> Sandbox:
    return Sandbox.open(arguments.dir or default_directory(arguments.name))


def _summary(sandbox: Sandbox) -> str:
    layout = sandbox.layout
    return (
        f"{layout.shape.nodes} nodes with {layout.shape.gpus_per_node} GPUs each, isolation {layout.isolation}, "
        f"logs in {layout.log_dir}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.sandbox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--name", type=_name, default="default", help="which sandbox, where there are several")
    place.add_argument("--dir", type=Path, help="its directory, in place of one among the temporary files")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", parents=[place], help="start one; prints the export line that selects it")
    shape = SandboxShape()
    up.add_argument("--nodes", type=int, default=shape.nodes, help="default: %(default)s")
    up.add_argument("--gpus-per-node", type=int, default=shape.gpus_per_node, help="stand-ins; default: %(default)s")
    isolation = up.add_mutually_exclusive_group()
    for mode, meaning in {
        Isolation.NETWORK: "give each node a network of its own, for cut, heal and limit; needs root",
        Isolation.PLAIN: "let all nodes share this machine's host name, as they do where namespaces are forbidden",
    }.items():
        isolation.add_argument(f"--{mode}", dest="isolation", action="store_const", const=mode, help=meaning)
    up.set_defaults(act=_up)

    for name, act, meaning in (
        ("down", _down, "end it with all that runs in it, and leave nothing behind"),
        ("status", _status, "show its nodes and jobs"),
    ):
        commands.add_parser(name, parents=[place], help=meaning).set_defaults(act=act)

    for name, method, meaning in (
        ("cut", Sandbox.cut, "pull a node's network cable"),
        ("heal", Sandbox.heal, "plug it in again"),
        ("kill-node", Sandbox.kill_node, "pull a node's power plug"),
        ("start-node", Sandbox.start_node, "switch it on again"),
    ):
        command = commands.add_parser(name, parents=[place], help=meaning)
        command.add_argument("node", metavar="NODE")
        command.set_defaults(act=lambda arguments, method=method: method(_open(arguments), arguments.node))
    limit = commands.add_parser("limit", parents=[place], help="have each node receive no more than so much")
    limit.add_argument("mbit_per_s", type=float, metavar="MBIT_PER_S")
    limit.set_defaults(act=lambda arguments: _open(arguments).limit_bandwidth(arguments.mbit_per_s))
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} must be of letters, digits, _ and - only.")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
