"""The package is installed, upgraded, removed and purged, and leaves strongSwan as it was."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from package.conftest import CONFIGURATION, DEB
from package.debian_root import DebianRoot
from swanroam import __version__


def strongswan(root: DebianRoot) -> str:
    """All of strongSwan's files in /etc, with owners, modes and contents."""
    return root.shell(
        "cd /etc; find swanctl strongswan* ipsec* apparmor.d -printf '%p %u %g %m\\n' | sort;"
        "find swanctl strongswan* ipsec* apparmor.d -type f -exec sha256sum {} + | sort"
    )


def test_installation_makes_the_user_and_starts_nothing(root: DebianRoot) -> None:
    before = strongswan(root)
    root.run("dpkg", "-i", root.bring(DEB))

    assert strongswan(root) == before
    assert root.run("swanroam", "--version").stdout == f"swanroam {__version__}\n"
    assert "swanroam-admin" in root.run("id", "-nG", "swanroam").stdout.split()
    assert not root.shell("find /etc/systemd -name 'swanroam*'")
    assert not root.has("/etc/swanroam/swanroam.yaml")
    verdict = root.run("dpkg", "--verify", "swanroam").stdout
    assert verdict == ""


def test_it_runs_with_the_modules_that_it_brings_and_debians_yaml(installed: DebianRoot) -> None:
    said = installed.run("swanroam", "check-config", "--config", "/usr/share/swanroam/examples/mobile.yaml").stdout
    assert "set_mark_out = 0x5353" in said

    program = "import pyroute2, structlog, vici, yaml; print(*(m.__file__ for m in (pyroute2, structlog, vici, yaml)))"
    # As the launcher does it, and as what the daemon starts finds it.
    launcher = installed.run("cat", "/usr/sbin/swanroam").stdout.split("from swanroam")[0]
    started = f"{launcher}\nimport subprocess; subprocess.run([sys.executable, '-P', '-c', {program!r}], check=True)"
    *own, yaml = installed.run("/usr/bin/python3", "-I", "-c", started).stdout.split()
    assert all(path.startswith("/usr/lib/swanroam/python/") for path in own)
    assert yaml.startswith("/usr/lib/python3/dist-packages/")


def test_the_process_that_moves_sockets_starts_from_the_package(installed: DebianRoot) -> None:
    said = installed.run(
        "env", "PYTHONPATH=/usr/lib/swanroam/python", "python3", "-P", "-m", "swanroam.transport", "-h"
    )
    assert "Started by the swanroam daemon" in said.stdout


def test_without_charon_the_daemon_says_what_is_missing(installed: DebianRoot) -> None:
    installed.put("/etc/swanroam/swanroam.yaml", CONFIGURATION)
    done = installed.run("swanroam", "run", check=False)

    assert done.returncode in (4, 5), done.stdout  # 5 where this machine's kernel lacks ESP
    assert re.search(r"^swanroam: ", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout


def test_systemd_knows_the_unit_and_charon_is_started_before_it(installed: DebianRoot) -> None:
    done = installed.run("systemd-analyze", "verify", "swanroam.service", check=False)
    assert [line for line in done.stdout.splitlines() if "swanroam.service" in line] == []
    assert done.returncode == 0

    unit = installed.shell("cat $(dpkg -L swanroam | grep /swanroam.service)")
    after = set(re.findall(r"^After=(.*)$", unit, re.MULTILINE)[0].split())
    # strongSwan's units, where it comes with strongswan-starter and where with charon-systemd.
    paths = installed.shell("dpkg -L strongswan-starter | grep '[.]service$' | xargs -I{} find {} -type f").split()
    assert {Path(path).name for path in paths} == {"strongswan-starter.service"}
    assert after >= {"strongswan-starter.service", "strongswan.service"}


def test_all_modules_are_compiled_and_all_goes_with_removal(installed: DebianRoot) -> None:
    assert installed.shell("find /usr/lib/swanroam -name '*.pyc' | wc -l").strip() != "0"
    installed.run("dpkg", "-r", "swanroam")
    assert not installed.has("/usr/lib/swanroam")


def repacked(root: DebianRoot, version: str) -> str:
    """The package with another version."""
    here = root.bring(DEB)
    root.shell(
        f"cd /root; dpkg-deb -R {here} unpacked; sed -i 's/^Version: .*/Version: {version}/' unpacked/DEBIAN/control;"
        "dpkg-deb -b unpacked newer.deb >/dev/null"
    )
    return "/root/newer.deb"


def test_an_upgrade_keeps_configuration_state_and_changed_hooks(installed: DebianRoot) -> None:
    installed.put("/etc/swanroam/swanroam.yaml", CONFIGURATION)
    installed.put("/var/lib/swanroam/journal.json", "{}")
    installed.shell("echo '# not here' >>/etc/network/if-down.d/swanroam")
    before = strongswan(installed)
    installed.run("dpkg", "-i", "--force-confdef", repacked(installed, f"{__version__}+1"))

    assert installed.run("dpkg-query", "-Wf", "${Version} ${db:Status-Status}", "swanroam").stdout == (
        f"{__version__}+1 installed"
    )
    assert installed.run("cat", "/etc/swanroam/swanroam.yaml").stdout == CONFIGURATION
    assert installed.run("cat", "/var/lib/swanroam/journal.json").stdout == "{}"
    assert "# not here" in installed.run("cat", "/etc/network/if-down.d/swanroam").stdout
    assert strongswan(installed) == before


def test_removal_takes_what_is_in_the_kernel_and_purge_the_rest(root: DebianRoot) -> None:
    before = strongswan(root)
    root.run("dpkg", "-i", root.bring(DEB))
    root.put("/etc/swanroam/swanroam.yaml", CONFIGURATION)
    root.put("/var/lib/swanroam/journal.json", "{}")
    # As a daemon that was killed could have left it.
    left = root.shell(
        "ip link set lo up; ip rule add from 192.0.2.1 to 203.0.113.9 priority 151 lookup 5353 protocol 83; ip rule;"
        "dpkg -r swanroam; echo; ip rule"
    )
    assert ["5353" in part for part in left.split("\n\n")] == [True, False], left
    assert root.has("/etc/swanroam/swanroam.yaml")
    assert strongswan(root) == before

    root.run("dpkg", "-P", "swanroam")
    # The user stays, as Debian wants it: files of its may be left somewhere.
    remains = root.shell("find / -xdev -path /proc -prune -o -path /root -prune -o -name '*swanroam*' -print").split()
    assert remains == []
    assert strongswan(root) == before


def test_hooks_of_a_removed_package_do_no_harm(installed: DebianRoot) -> None:
    installed.run("dpkg", "-r", "swanroam")
    assert installed.has("/etc/dhcp/dhclient-enter-hooks.d/swanroam")
    said = installed.shell(
        "ip link add eth0 type veth peer name far; ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0;"
        "env reason=RELEASE interface=eth0 old_ip_address=192.0.2.1 /sbin/dhclient-script;"
        "env IFACE=eth0 PHASE=down run-parts --exit-on-error /etc/network/if-down.d;"
        "ip -4 -o addr show dev eth0"
    )
    assert said == ""


def test_manual_pages_are_found_and_without_faults(installed: DebianRoot) -> None:
    for page, shown in (("swanroam", "swanroam leave"), ("swanroam.yaml", "readd_window")):
        read = installed.shell(f"MANWIDTH=80 man {page} | col -b")
        assert shown in read
        assert [line for line in read.splitlines() if len(line) > 160] == []
        assert installed.shell(f"man --warnings -E UTF-8 {page} 2>&1 >/dev/null") == ""


def test_shells_complete_commands_options_and_interfaces(installed: DebianRoot) -> None:
    bash = """
        ip link add wlan7 type veth peer name far
        source /usr/share/bash-completion/bash_completion
        complete_line() { # WORD...: what bash would offer for the last one
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMPREPLY=()
            $(complete -p swanroam | sed 's/.*-F \\([^ ]*\\).*/\\1/') swanroam "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[@]}"
        }
        set +eu
        source /usr/share/bash-completion/completions/swanroam
        complete_line swanroam le
        complete_line swanroam move --t
        complete_line swanroam leave wl
    """
    assert installed.shell(bash).split() == ["leave", "--timeout", "wlan7"]
    for typed, offered in (("swanroam le", "leave"), ("swanroam leave wl", "wlan7")):
        fish = installed.shell(f"ip link add wlan7 type veth peer name far; fish -c 'complete -C \"{typed}\"'")
        assert fish.split("\t")[0].strip() == offered
    zsh = "autoload -U compinit; compinit -D; echo $_comps[swanroam]; autoload +X _swanroam; whence -w _swanroam"
    assert installed.run("zsh", "-fc", zsh).stdout.split() == ["_swanroam", "_swanroam:", "function"]


def test_lintian_has_nothing_to_say() -> None:
    argv = ["lintian", "--fail-on", "error,warning", "--allow-root", str(DEB)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
