"""Who may ask: API keys by name, kept as hashes; and from where: the hosts and origins that a browser may come by."""

import hashlib
import hmac
import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from posttrain.errors import ConfigError

NOBODY = "local"
"""The name of whoever asks a server without keys."""
OWNER = "owner"
HASHED = "sha256:"
ENVIRONMENT = "POSTTRAIN_API_KEY"
FEWEST = 8  # characters of a key


@dataclass(frozen=True)
class Keys:
    """`hashes`: SHA-256 of every key, by its name. Without any, everybody may do everything. `owners`: the names that
    may load adapters and see the A/B test."""

    hashes: Mapping[str, bytes] = field(default_factory=dict)
    owners: frozenset[str] = frozenset()

    def name(self, authorization: str) -> str | None:
        """Whose key an Authorization header holds; None for nobody's. Takes as long whichever key it is."""
        if not self.hashes:
            return NOBODY
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer":
            given = ""
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        found = [name for name, kept in self.hashes.items() if hmac.compare_digest(kept, digest)]
        return found[0] if found and given.strip() else None

    def is_owner(self, name: str) -> bool:
        """Whether a caller may change what is served."""
        return not self.hashes or name in self.owners


def read_keys(given: Sequence[str] = (), file: str | None = None, environment: Mapping[str, str] = os.environ) -> Keys:
    """Keys from a recipe (`KEY` or `NAME:KEY`), a file of such lines and the environment's POSTTRAIN_API_KEY. A key
    may stand as `sha256:HEX`. The owner's is the one named `owner`, else the first.

    Raises ConfigError for a key that is too short, and for a name or a key that stands twice.
    """
    lines = [("api_key", text) for text in given]
    lines += [(ENVIRONMENT, text) for text in (environment.get(ENVIRONMENT, ""),) if text]
    if file is not None:
        try:
            rows = Path(file).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_key_file: {file} cannot be read as UTF-8 text ({error}).") from None
        rows = [row.strip() for row in rows]
        lines += [(f"{file}, line {n}", row) for n, row in enumerate(rows, 1) if row and not row.startswith("#")]
    hashes: dict[str, bytes] = {}
    for place, text in lines:
        name, digest = _read(place, text, len(hashes))
        if name in hashes or digest in hashes.values():
            raise ConfigError(f"{place}: the name or the key of {name!r} was already given; keep one.")
        hashes[name] = digest
    owners = [OWNER] if OWNER in hashes else list(hashes)[:1]
    return Keys(hashes, frozenset(owners))


def _read(place: str, text: str, number: int) -> tuple[str, bytes]:
    name, colon, key = text.partition(":")
    if not colon or name == HASHED[:-1]:
        name, key = OWNER if not number else f"key-{number + 1}", text
    key = key.strip()
    if key.startswith(HASHED):
        try:
            digest = bytes.fromhex(key.removeprefix(HASHED))
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ConfigError(f"{place}: the hash of {name!r} is not 64 hexadecimal digits.")
        return name.strip(), digest
    if len(key) < FEWEST or not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"{place}: the key of {name!r} needs at least {FEWEST} ASCII characters, none of them a space."
        )
    return name.strip(), hashlib.sha256(key.encode()).digest()


def hashed_user(caller: str, user: str) -> str:
    """A user as everything behind the door knows them: 32 hexadecimal digits that tell neither name nor key, the same
    for the same user of the same key."""
    text = f"{len(caller)}:{caller}:{user}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True)
class Hosts:
    """Which Host and Origin headers are let in. A page elsewhere whose name was bent to this machine (DNS rebinding)
    comes with its own name. Numbers are let in: no name was looked up for them. `names` with '*': every host."""

    names: frozenset[str] = frozenset({"localhost"})
    origins: frozenset[str] = frozenset()

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = _name(host)
        return "*" in self.names or name in self.names or name.endswith(".localhost") or _is_number(name)

    def lets(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask: one that this server gave itself, or one that is named."""
        if origin in self.origins or "*" in self.origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


def known_hosts(listened: str, more: Iterable[str] = (), origins: Iterable[str] = ()) -> Hosts:
    """The names that a server on this address goes by."""
    names = {"localhost", listened.lower(), *(_name(one) for one in more)}
    if listened in ("0.0.0.0", "::"):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Hosts(frozenset(names), frozenset(one.rstrip("/") for one in origins))


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(host: str) -> str:
    """A Host header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
