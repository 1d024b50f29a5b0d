"""`swanroam doctor`: everything on this host that can be wrong, found before it hurts. It changes nothing.

`view` reads what several checks look at, once: the daemon's status if there is a daemon, charon, the swanctl
connections, the way to each peer. Each other module is about one concern and turns what it finds into findings
(`swanroam.kernel.findings`); `examination` lists them in their order. What the daemon checks at its start is checked
here by the same code (`swanroam.daemon.requirements`). Of what cannot be looked at, that is said.

`remedies` has the commands that several checks propose. Called by `swanroam.cli.doctor`.
"""
