"""The Debian package, installed and removed in roots of the Debian releases that it is for. `make test-deb`."""
