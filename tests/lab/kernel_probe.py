"""Does the running kernel have what the lab needs? Found out by trying, in a throw-away network namespace."""

import os
import subprocess

_TRIALS = {
    "ESP for IPv4": "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport"
    " aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
    "ESP for IPv6": "ip xfrm state add src 2001:db8::1 dst 2001:db8::2 proto esp spi 1 mode transport"
    " aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
    "IP-in-IP": "ip link add probe4 type ipip external",
    "IPv6-in-IPv6": "ip link add probe6 type ip6tnl external",
    "bridge": "ip link add probe2 type bridge",
    "veth": "ip link add probe0 type veth peer name probe1",
    "netem": "tc qdisc add dev lo root netem delay 1ms",
    "clsact": "tc qdisc add dev lo clsact",
    "skbedit": "tc filter add dev lo ingress matchall action skbedit mark 1",
}


def missing_features() -> list[str]:
    """Names of what this kernel (or this user) cannot do; empty when the lab can run right here."""
    if os.geteuid() != 0:
        return ["root"]
    missing = []
    script = "\n".join(f"( {command} ) >/dev/null 2>&1 || echo '{feature}'" for feature, command in _TRIALS.items())
    probe = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return ["network namespaces"]
    missing.extend(probe.stdout.split("\n")[:-1])
    return missing


if __name__ == "__main__":
    print("\n".join(missing_features()))
