"""What changes this host: one module per kind of kernel object.

Every module takes the complete wanted state, finds its own objects by their mark, adds before it deletes and can be
repeated at any time; a retry, a restart and a reload are therefore the same call. Nothing here knows of peers,
handovers or configuration files, and nothing here imports from outside `swanroam.kernel`. Called by `swanroam.daemon`.
Beside them: `preflight`, whether all that is possible here, and `privileges`, what this process may do.
"""
