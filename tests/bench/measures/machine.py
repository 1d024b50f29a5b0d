"""What elementary things cost under this kernel. The same measured outside tells how much is emulation."""

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable

from bench.measures.movers import MOVERS, measure_movers
from bench.results import Machine

ROUNDS = 20_000
PACKET = 1400  # bytes
ALG_SET_KEY, ALG_SET_AEAD_AUTHSIZE, SOL_ALG = 1, 5, 279  # linux/if_alg.h
USER_CODE = "a Python loop of 1,000 rounds"
NULL_CALL = "a system call that does nothing (getppid)"
PROCESS = "a process started and ended (/bin/true)"
LOOPBACK = f"a UDP packet of {PACKET} bytes over loopback, sent and received"
KERNEL_GCM = f"AES-128-GCM of {PACKET} bytes in the kernel (AF_ALG, with its two system calls)"
USER_GCM = f"AES-128-GCM of {PACKET} bytes in user space (openssl)"


def measure_machine() -> Machine:
    """All that this kernel has; what it has not is missing in the costs."""
    costs = {USER_CODE: _each(_user_code, 200), NULL_CALL: _each(os.getppid, ROUNDS), PROCESS: _each(_process, 50)}
    costs[LOOPBACK] = _loopback()
    costs[MOVERS] = measure_movers()
    for name, measured in ((KERNEL_GCM, _kernel_gcm()), (USER_GCM, _user_gcm())):
        if measured is not None:
            costs[name] = measured
    emulated = os.environ.get("SWANROAM_LAB_KERNEL") == "guest"
    return Machine(platform.release(), emulated, os.cpu_count() or 1, costs)


def _each(action: Callable[[], object], rounds: int) -> float:
    """Microseconds for one, the best of five series: what else the machine does only adds."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds // 5):
            action()
        best = min(best, (time.perf_counter() - began) / (rounds // 5))
    return best * 1e6


def _user_code() -> int:
    return sum(number & 3 for number in range(1000))


def _process() -> None:
    subprocess.run(["/bin/true"], check=True)


def _loopback() -> float:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        packet = bytes(PACKET)

        def once() -> None:
            sender.send(packet)
            receiver.recv(2048)

        return _each(once, ROUNDS // 4)


def _kernel_gcm() -> float | None:
    try:
        algorithm = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    except OSError:
        return None
    with algorithm, contextlib.suppress(OSError):
        algorithm.bind(("aead", "gcm(aes)"))
        algorithm.setsockopt(SOL_ALG, ALG_SET_KEY, bytes(16))
        algorithm.setsockopt(SOL_ALG, ALG_SET_AEAD_AUTHSIZE, None, 16)
        operation, _ = algorithm.accept()
        with operation:

            def once() -> None:
                operation.sendmsg_afalg([bytes(PACKET)], op=socket.ALG_OP_ENCRYPT, iv=bytes(12), assoclen=8)
                operation.recv(PACKET + 16)

            return _each(once, ROUNDS // 4)
    return None


def _user_gcm() -> float | None:
    program = shutil.which("openssl")
    if program is None:
        return None
    argv = [program, "speed", "-elapsed", "-seconds", "1", "-bytes", str(PACKET), "-evp", "aes-128-gcm"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    counted = re.search(r": (\d+) aes-128-gcm's in ([\d.]+)s", done.stdout + done.stderr, re.IGNORECASE)
    return float(counted[2]) / int(counted[1]) * 1e6 if counted else None
