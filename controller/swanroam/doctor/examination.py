"""All checks, in the order in which things depend on each other."""

from __future__ import annotations

from pathlib import Path

from swanroam.config import Config
from swanroam.daemon.requirements import kernel_findings, parameter_findings
from swanroam.doctor import associations, charon, clock, connections, daemon, files, path, traces
from swanroam.doctor.firewall import checks as firewall
from swanroam.doctor.view import Api, View, look
from swanroam.kernel.findings import Finding


async def examine(config: Config, config_file: Path, api: Api) -> list[Finding]:
    """Looks at everything; raises nothing that the host can cause. `api`: what the daemon answered."""
    view = await look(config, config_file, api)
    return [
        daemon.own_privileges(view),
        *await _kernel(view),
        *charon.check(view),
        *connections.check(view),
        *await associations.check(view),
        *path.check(view),
        *firewall.check(view),
        *clock.check(view),
        *daemon.check(view),
        *files.check(view),
        *await traces.check(view),
    ]


async def _kernel(view: View) -> list[Finding]:
    """What it can do is found by trying, which takes privileges; how it is set can be read by everybody."""
    if not view.privileged:
        return parameter_findings(view.config)
    return list((await kernel_findings(view.config)).findings)
