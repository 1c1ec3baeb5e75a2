"""Addresses and interfaces of this machine, by which the processes of a stage reach each other."""

from __future__ import annotations

import socket
from contextlib import closing

import psutil

from schemas.core.errors import ConfigError
from schemas.recipe.parts import host_and_port

_FIELD = "execution.launch.rendezvous"


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an address; None if this machine has no such address."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return str(name)
    return None


def address_towards(host: str, port: int) -> str:
    """Return the address of this machine from which it reaches another, by its routes; nothing is sent.

    Raises:
        OSError: the host is unknown, or there is no route to it.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def listen_at(rendezvous: str) -> socket.socket:
    """Return a socket that listens at HOST:PORT, on the interface of that address alone.

    Raises:
        ConfigError: HOST is unknown or not of this machine, or PORT is in use.
    """
    host, port = host_and_port(rendezvous)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(
            f"{_FIELD}: {rendezvous}: {host} is unknown here ({error.strerror}); give an address"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{_FIELD}: this machine cannot listen at {rendezvous} ({error.strerror}); give one of its own addresses "
            f"({', '.join(_addresses())}) and a free port"
        ) from None
    return listener


def check_rendezvous(rendezvous: str) -> None:
    """Check that this machine can listen at HOST:PORT; raises ConfigError as `listen_at`."""
    with closing(listen_at(rendezvous)):
        pass


def _addresses() -> list[str]:
    entries = [entry for entries in psutil.net_if_addrs().values() for entry in entries]
    return sorted({entry.address for entry in entries if entry.family == socket.AF_INET})
