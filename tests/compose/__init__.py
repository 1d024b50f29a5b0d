"""The Compose demo. `make test-docker`."""
