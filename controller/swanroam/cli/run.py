"""`swanroam run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import structlog

from swanroam.cli.exits import Exit
from swanroam.config import Config, load_config
from swanroam.daemon import logs
from swanroam.daemon.control_channel import ControlChannelError
from swanroam.daemon.controller import HostError
from swanroam.daemon.journal import JournalError
from swanroam.daemon.metrics_server import MetricsError
from swanroam.daemon.requirements import Unmet, check_requirements, lacking
from swanroam.daemon.run import AlreadyRunningError, DirectoryError
from swanroam.daemon.run import run as run_daemon
from swanroam.kernel.address_watch import AddressWatchError
from swanroam.kernel.findings import Severity
from swanroam.kernel.privileges import Capability, forbid_dumping, lay_aside

log = structlog.get_logger("swanroam")

_STATUS = {
    Unmet.PRIVILEGES: Exit.PRIVILEGES,
    Unmet.KERNEL: Exit.KERNEL,
    Unmet.CHARON: Exit.CHARON,
    Unmet.CONFIGURATION: Exit.CONFIGURATION,
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The command's options."""
    return commands.add_parser("run", help="run the daemon in the foreground", description=__doc__)


def run(arguments: argparse.Namespace) -> int:
    """Checks what it needs, then works until SIGTERM or SIGINT."""
    config = load_config(arguments.config)
    logs.configure(config.log.format, config.log.level)
    if (problem := lacking(config)) is not None:
        print(f"swanroam: {problem}", file=sys.stderr)
        return Exit.PRIVILEGES
    # Before there is a second thread. What charon's netlink dumps hold passes through this process's memory.
    forbid_dumping()
    lay_aside(frozenset(Capability) - {Capability.NET_ADMIN})
    return asyncio.run(_run(config, arguments.config))


async def _run(config: Config, file: Path) -> int:
    requirements = await check_requirements(config)
    for _, text in requirements.unmet:
        print(f"swanroam: {text}", file=sys.stderr)
    if requirements.unmet:
        return _STATUS[requirements.unmet[0][0]]
    for finding in requirements.findings:
        fields = {"check": finding.check, "what": finding.evidence, "remedy": finding.mend}
        if finding.severity is Severity.NOTE:
            log.info("host_checked", **fields)
        else:
            log.warning("host_checked", **fields)
    try:
        await run_daemon(config, file, requirements.families)
    except AlreadyRunningError as error:
        return _fail(error, Exit.ALREADY_RUNNING)
    except (DirectoryError, JournalError) as error:
        return _fail(error, Exit.FILES)
    except (ControlChannelError, HostError, AddressWatchError, MetricsError) as error:
        return _fail(error, Exit.FAILED)
    return Exit.OK


def _fail(error: Exception, status: Exit) -> int:
    print(f"swanroam: {error}", file=sys.stderr)
    return status
