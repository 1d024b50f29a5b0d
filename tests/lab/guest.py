"""Runs a command where ESP and IP-in-IP exist: on this machine's kernel, or in a User-Mode Linux guest.

    python -m lab.guest [options] [pytest args]        the lab's tests (default: all that are marked `lab` or `both`)
    python -m lab.guest [options] --exec ARGV...        any command, e.g. the demo

Options: `--guests N` spreads the tests over N kernels, `--time-limit SECONDS` for the whole run,
`--kernel auto|native|guest`, `--memory SIZE` of each guest, `--keep DIRECTORY` collects what failed tests left (logs,
captures), `--summary FILE`, `--outcomes FILE` of each test.

A guest reports through files in a directory that it shares with the machine. A guest that ends without its
`status` file has died, and that is a failure, as is a run that had no test or skipped one.
"""

import argparse
import compileall
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lab.kernel_probe import missing_features
from mutations.results import Results, read

ROOT = Path(__file__).resolve().parents[2]
UML = "linux.uml"
GUEST_MEMORY = "1500M"
TEST_TIME_LIMIT = 300  # seconds for one test
PASSED_ON = (
    "COLUMNS", "FORCE_COLOR", "NO_COLOR",
    "SWANROAM_SEED", "SWANROAM_TRANSFER_MB", "SWANROAM_CONNECTIONS", "SWANROAM_MOVES", "SWANROAM_MUTATION",
)  # fmt: skip
POLL = 0.05  # seconds between looks at a guest's output


class LabError(Exception):
    """The lab cannot run; the message says what to do."""


@dataclass(slots=True)
class Shard:
    """One kernel's part of the run: its command, its exchange directory and how far its output was shown."""

    name: str
    directory: Path
    native: bool
    memory: str = GUEST_MEMORY
    preload: dict[str, str] = field(default_factory=dict)
    pinned: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    shown: int = 0
    partial: bytes = b""
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.directory / "output"

    @property
    def console(self) -> Path:
        return self.directory / "console"

    @property
    def outcomes(self) -> Path:
        return self.directory / "outcomes.json"

    @property
    def status(self) -> int | None:
        """Exit status of the command; None as long as (or because) there is none."""
        try:
            return int((self.directory / "status").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def prepare(self, argv: list[str], environment: dict[str, str]) -> None:
        """Write job.sh: the command with its environment, run from the repository's root."""
        self.directory.mkdir(parents=True)
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        job = f"{exports}cd {shlex.quote(str(ROOT))} || exit 98\nexec {shlex.join(argv)}\n"
        (self.directory / "job.sh").write_text(job, encoding="utf-8")
        hidden = [path for path in {ROOT, Path(sys.prefix)} if path.parts[1] in ("tmp", "run")]
        # A directory inside another kept one is visible with it.
        kept = [path for path in hidden if not any(other in path.parents for other in hidden)]
        (self.directory / "keep").write_text("".join(f"{path}\n" for path in kept), encoding="utf-8")
        self.output.touch()

    def start(self) -> None:
        """Start the command in a process group of its own."""
        if self.native:
            script = 'sh "$0/job.sh" >"$0/output" 2>&1 </dev/null; echo $? >"$0/status.new"; '
            argv = ["sh", "-c", script + 'mv "$0/status.new" "$0/status"', str(self.directory)]
        else:
            init = self.directory / "init"
            shutil.copy(Path(__file__).with_name("guest-init.sh"), init)
            init.chmod(0o755)
            argv = [
                *self.pinned, UML, f"mem={self.memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
                f"init={init}", f"lab_job={self.directory}", f"uml_dir={self.directory}", "umid=guest",
                "quiet", "loglevel=4", "panic=1", "con=null", "con0=null,fd:1", "ssl=null",
            ]  # fmt: skip
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env=os.environ | self.preload,
            )  # fmt: skip

    def show(self, prefix: str) -> None:
        """Print what the command has written since the last look, whole lines only when there is a prefix."""
        with self.output.open("rb") as output:
            output.seek(self.shown)
            new = output.read()
        self.shown += len(new)
        if not prefix:
            sys.stdout.write(new.decode("utf-8", "replace"))
        else:
            *lines, self.partial = (self.partial + new).split(b"\n")
            for line in lines:
                sys.stdout.write(f"{prefix}{line.decode('utf-8', 'replace')}\n")
        sys.stdout.flush()

    def kill(self) -> None:
        """End the command and everything that it started; harmless when it has ended."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def run(shards: list[Shard], time_limit: float) -> bool:
    """Start all shards, show their output as it comes; False when the time limit ended them."""
    deadline = time.monotonic() + time_limit
    prefixes = [f"{shard.name}| " if len(shards) > 1 else "" for shard in shards]
    try:
        for shard in shards:
            shard.start()
        running = True
        while running and time.monotonic() < deadline:
            # Whether it still runs is asked before its output is read: what came last is shown as well.
            running = any(shard.process is not None and shard.process.poll() is None for shard in shards)
            for shard, prefix in zip(shards, prefixes, strict=True):
                shard.show(prefix)
            if running:
                time.sleep(POLL)
        return not running
    finally:
        for shard in shards:
            shard.kill()


def explain_death(shard: Shard, in_time: bool) -> None:
    """Say that a shard ended without a result, with the end of the guest's console."""
    cause = "the guest died" if in_time else "the time limit ended it"
    print(f"\n{shard.name}: no result, {cause}; the last lines of its console:")
    for line in shard.console.read_text("utf-8", "replace").splitlines()[-30:]:
        print(f"    {line.rstrip()}")


def precompile() -> None:
    """Byte code for all that a guest imports: compiling there is slow, and its root is read-only."""
    for directory in (ROOT / "controller", ROOT / "tests", Path(sys.prefix) / "lib"):
        compileall.compile_dir(str(directory), quiet=2)


def preloaded(directory: Path) -> dict[str, str]:
    """Environment of the guest kernels: with the help they need on this processor (wide_xstate.c). Raises LabError."""
    if "amx_tile" not in Path("/proc/cpuinfo").read_text(encoding="utf-8").split():
        return {}
    library = directory / "wide_xstate.so"
    argv = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(Path(__file__).with_name("wide_xstate.c"))]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError(f"{UML} needs a helper on this processor (AMX): apt-get install gcc libc6-dev") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"{shlex.join(argv)} failed: {error.stderr.strip()}") from None
    return {"LD_PRELOAD": str(library)}


def pinned(number: int) -> list[str]:
    """What goes before the command of a guest kernel, to keep it on one of this machine's processors.

    Each system call in a guest goes to another process of the machine and back. On one processor that is a switch of
    contexts, between two it is an interrupt each way: measured in a virtual machine, 7 us against 64.
    """
    processors = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(processors[number % len(processors)])]


def choose_native(kernel: str) -> bool:
    """Where to run. Raises LabError when the wish cannot be met."""
    missing = missing_features() if kernel != "guest" else ["(not asked for)"]
    if not missing:
        return True
    if kernel == "native":
        raise LabError(f"this machine's kernel lacks {', '.join(missing)}; leave out --kernel native")
    if shutil.which(UML) is None:
        raise LabError(
            f"this machine's kernel lacks {', '.join(missing)}, and {UML} is not installed: "
            "apt-get install user-mode-linux"
        )
    return False


def pytest_argv(arguments: list[str]) -> list[str]:
    """The pytest command line: the lab's tests unless the arguments select others."""
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "lab.shards"]
    argv += [f"--timeout={TEST_TIME_LIMIT}", "--color=no"]
    if not any(argument == "-m" or argument.startswith("-m=") for argument in arguments):
        argv += ["-m", "(lab or both) and not long and not ansible"]
    argv += arguments
    if not any((ROOT / a.split("::")[0]).exists() for a in arguments if not a.startswith("-")):
        argv += [str(ROOT / "tests" / name) for name in ("kernel", "scenarios")]
    return argv


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Own options first; everything else goes to pytest, or after --exec is the command."""
    parser = argparse.ArgumentParser(prog="tests/run-lab", description=__doc__.split("\n")[0])
    parser.add_argument("--guests", type=int, metavar="N", help="kernels at the same time (default: 1)")
    parser.add_argument("--time-limit", type=float, default=3600, metavar="SECONDS")
    parser.add_argument("--kernel", choices=("auto", "native", "guest"), default="auto")
    parser.add_argument("--memory", default=GUEST_MEMORY, metavar="SIZE", help="of each guest (default: %(default)s)")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the counts here, as JSON")
    parser.add_argument("--outcomes", type=Path, metavar="FILE", help="write how each test ended here, as JSON")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="collect failed tests' logs here")
    command: list[str] = []
    if "--exec" in argv:
        argv, command = argv[: argv.index("--exec")], argv[argv.index("--exec") + 1 :]
        if not command:
            parser.error("--exec needs a command")
    options, rest = parser.parse_known_args(argv)
    return options, command or pytest_argv(rest)


def summarise(shards: list[Shard], seconds: float, summary: Path | None) -> bool:
    """Print the one line of totals; True when tests ran and all passed."""
    counts: Counter[str] = Counter()
    for shard in shards:
        try:
            counts.update(json.loads((shard.directory / "summary.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            counts["dead"] += 1
        else:
            # 5: no test was selected, which the caller says in its own words.
            counts["dead"] += shard.status not in (0, 1, 5)
    if summary is not None:
        summary.write_text(json.dumps(counts), encoding="utf-8")
    failed = counts["failed"] + counts["error"] + counts["dead"]
    line = f"lab: {counts['passed']} passed, {failed} failed, {counts['skipped']} skipped"
    if counts["xfailed"]:
        line += f", {counts['xfailed']} expected failures"
    where = "this machine's kernel" if shards[0].native else f"{len(shards)} guest kernel(s)"
    print(f"{line} (on {where}, {seconds:.0f} s)")
    if counts["skipped"]:
        print("lab: a skipped test counts as failed here: the lab has what they need")
    if not counts["passed"] + failed:
        print("lab: no test ran")
    return counts["passed"] > 0 and not failed and not counts["skipped"]


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: all passed, 1: something failed, 2: the lab cannot run; --exec: the command's own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without ending the guests
    arguments = sys.argv[1:] if argv is None else argv
    options, command = parse(arguments)
    try:
        return launch(options, command, executes="--exec" in arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2


def launch(options: argparse.Namespace, command: list[str], *, executes: bool) -> int:
    """The exit status. Raises LabError."""
    native = choose_native(options.kernel)
    guests = 1 if executes else (options.guests or 1)
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment.setdefault("SWANROAM_SEED", str(secrets.randbelow(2**32)))
    environment |= {
        "PYTHONPATH": f"{ROOT}/tests:{ROOT}/controller",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
        "SWANROAM_LAB_KERNEL": "native" if native else "guest",
    }
    if not native:
        precompile()
    started = time.monotonic()
    # Not in TMPDIR: a guest finds its exchange directory by a path without spaces.
    with tempfile.TemporaryDirectory(prefix="swanroam-lab-", dir="/tmp") as exchange:
        preload = {} if native else preloaded(Path(exchange))
        shards = [
            Shard(f"guest {number}", Path(exchange) / str(number), native, options.memory, preload, pinned(number))
            for number in range(1, guests + 1)
        ]
        claims = Path(exchange) / "claims"
        claims.mkdir()
        for shard in shards:
            own = {
                "SWANROAM_SUMMARY": str(shard.directory / "summary.json"),
                "SWANROAM_ARTIFACTS": str(shard.directory / "artifacts"),
                "SWANROAM_OUTCOMES": str(shard.outcomes),
                "SWANROAM_CLAIMS": str(claims),
            }
            shard.prepare(command, environment | own)
        if not executes:
            where = "this machine's kernel" if native else f"{guests} guest kernel(s)"
            print(f"lab: on {where}, seed {environment['SWANROAM_SEED']}", flush=True)
        in_time = run(shards, options.time_limit)
        for shard in shards:
            if shard.status is None:
                explain_death(shard, in_time)
            if options.keep and (shard.directory / "artifacts").is_dir():
                shutil.copytree(shard.directory / "artifacts", options.keep, dirs_exist_ok=True)
        if options.outcomes:
            outcomes = Results()
            for shard in shards:
                if shard.outcomes.exists():
                    outcomes.update(read(shard.outcomes))
            outcomes.write(options.outcomes)
        if executes:
            status = shards[0].status
            return 1 if status is None else status
        return 0 if summarise(shards, time.monotonic() - started, options.summary) else 1


if __name__ == "__main__":
    sys.exit(main())
