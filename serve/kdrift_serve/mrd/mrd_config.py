"""What the MRD server is told: a YAML file, all of it with defaults."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path

from kdrift.runs.config import load_config
from kdrift_serve.auth import is_loopback_host


@dataclass(frozen=True)
class MrdConfig:
    """A server of MRD streams. MRD knows no passwords: who reaches it may send scans."""

    host: str = "127.0.0.1"
    """Address to listen on. For any but a loopback address `allow` has to say who may connect."""
    port: int = 9002
    """TCP port to listen on; 9002 is the Gadgetron's."""
    allow: list[str] = field(default_factory=list)
    """Addresses and networks that may connect besides this machine, such as 10.1.2.3 or 10.1.2.0/24."""
    service: str = "http://127.0.0.1:8000"
    """The service that reconstructs; `kdrift serve` puts its own here. Its API key is in `KDRIFT_MRD_KEY`."""
    presets: str | None = None
    """Folder of the configurations that a client may name: NAME.yaml; null: there is `default` alone."""
    scans: int = 16
    """Connections at a time; further ones are told to come again."""
    upload_mb: int = 256
    """Size of a scan in MiB; `kdrift serve` puts its `limits.upload_mb` here."""
    idle_s: float = 300.0
    """Seconds between two messages of a client; also how long it may take to read an image."""
    scan_s: float = 21600.0
    """Seconds that a scan may take to be sent."""
    patience_s: float = 600.0
    """Seconds for which a service that is busy or does not answer is asked again."""
    folder: str = "~/.kdrift/mrd"
    """Where scans lie while they come; `kdrift serve` takes a folder of its storage."""

    def __post_init__(self) -> None:
        least = min(self.idle_s, self.scan_s, self.patience_s)
        if min(self.scans, self.upload_mb) < 1 or not least > 0 or not 0 < self.port < 1 << 16:
            raise ValueError(f"expected a port, limits of at least 1 and times above 0, got {self}")
        for each in self.allow:
            try:
                ipaddress.ip_network(each)
            except ValueError as error:
                raise ValueError(f"allow: {error}") from None
        if not is_loopback_host(self.host) and not self.allow:
            raise ValueError(
                f"MRD has no passwords, and on {self.host} others than this machine reach the server: list in allow"
                " the addresses or networks that may send scans"
            )

    @property
    def own_folder(self) -> Path:
        """The folder of the one server that listens there, on this machine."""
        return Path(self.folder).expanduser() / f"{socket.gethostname()}-{self.host}-{self.port}"

    def allows(self, address: str) -> bool:
        """Whether a client at an address may send scans."""
        known = ipaddress.ip_address(address.partition("%")[0])
        mapped = known.ipv4_mapped if isinstance(known, ipaddress.IPv6Address) else None
        found = mapped or known
        return found.is_loopback or any(found in ipaddress.ip_network(each) for each in self.allow)


def load_mrd_config(path: Path | None, port: int | None = None) -> MrdConfig | None:
    """Return the configuration of a file with another port, if one is given; None where neither is.

    Raises ValueError for an unknown key or a value that cannot be.
    """
    if path is None and port is None:
        return None
    return load_config(MrdConfig, path, [] if port is None else [f"port={port}"])
