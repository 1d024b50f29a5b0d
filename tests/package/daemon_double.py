"""Answers like a swanroam daemon with one peer, and notes orders with the addresses that the host has at that moment.

`python3 daemon_double.py ADDRESS PEER_ADDRESS NOTES`; for the packages' Python, so with its standard library alone.
"""

import json
import socketserver
import subprocess
import sys
from pathlib import Path

SOCKET = "/run/swanroam/api.sock"
current, peer_address, notes = sys.argv[1:]


class Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        global current
        request = json.loads(self.rfile.readline())
        answer: dict[str, object] = {"ok": True, "peers": ["office"]}
        if request["command"] == "move":
            shown = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
            present = sorted(line.split()[3] for line in shown.splitlines())
            with Path(notes).open("a", encoding="utf-8") as file:
                print(request["address"], request["peer"], "while", *present, file=file)
            if request["address"] != "auto":
                current = request["address"]
        else:
            peer = {
                "name": "office",
                "own": {"current": current},
                "peer": {"current": peer_address},
                "handover": None,
                "history": [],
                "state": "protected and ready to move",
                "problem": "",
            }
            answer["peers"] = [peer]
        self.wfile.write(json.dumps(answer).encode() + b"\n")


Path(SOCKET).parent.mkdir(exist_ok=True)
Path(SOCKET).unlink(missing_ok=True)
with socketserver.UnixStreamServer(SOCKET, Request) as server:
    print("ready", flush=True)
    server.serve_forever()
