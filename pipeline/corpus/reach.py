"""Security check of the URIs in a manifest: a manifest from elsewhere must not read files that its author could not."""

import functools
import ipaddress
import os
import socket
from urllib.parse import urlsplit

from pipeline import storage
from pipeline.corpus.item import MADE
from pipeline.errors import UserError

SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "abfs", "az", "http", "https")  # allowed in a manifest


def resolved(uri: str, manifest: str) -> str:
    """Return the absolute form of a URI in a manifest; messages omit its user, password and query.

    Raises:
        UserError: a chained URI, a path that leads out of the manifest's folder, a local file in a remote manifest, a scheme
            outside `SCHEMES`, a password where none is used, or a host of this machine or its network.
    """
    scheme, found, _ = uri.partition("://")
    remote = "://" in manifest and not manifest.startswith("file://")
    shown = storage.without_secrets(uri)
    what = f"manifest {manifest}: '{shown}'"
    if "\0" in uri:
        raise UserError(f"manifest {manifest}: {shown!r} is not a file name; write the manifest again")
    if MADE in uri:
        raise UserError(f"{what} contains '{MADE}', which is reserved for generated labels; name the file itself")
    if "::" in uri:
        raise UserError(f"{what} is a chain of stores; name the file itself")
    if not found:
        if remote and uri.startswith("/"):
            raise UserError(f"{what} is a local path, and the manifest is not; name an object of a store")
        if ".." in uri.split("/"):
            raise UserError(f"{what} leads out of the manifest's folder; name it from there, or as a whole URI")
        if uri.startswith("/"):
            return uri
        folder = manifest.rsplit("/", 1)[0]
        if "://" not in manifest and not _is_below(os.path.join(folder, uri), folder):
            raise UserError(f"{what} is a link that leads out of the manifest's folder; put the file itself there")
        return storage.join(folder, uri)
    if scheme not in SCHEMES or (scheme == "file" and remote):
        allowed = ", ".join(s for s in SCHEMES if s != "file" or not remote)
        raise UserError(f"{what} has the scheme '{scheme}'; allowed here: {allowed}")
    if scheme in ("http", "https"):
        _require_public(uri, what)
    elif shown != uri:
        raise UserError(f"{what} holds a password, which {scheme}:// takes from the store's own environment; remove it")
    return uri


def _require_public(uri: str, what: str) -> None:
    """Raise UserError if a web address cannot be parsed, or its host is this machine or in its network."""
    try:
        host = urlsplit(uri).hostname or ""
        _ = urlsplit(uri).port
    except ValueError:  # its message could show a password
        raise UserError(
            f"{what.partition(': ')[0]}: a web address cannot be parsed; percent-encode characters such as / and @ in its "
            "user and password (%2F, %40)"
        ) from None
    if _is_private(host):
        raise UserError(
            f"{what} names a host of this machine or its network ({host}); name a public one or an object store"
        )


def _is_below(path: str, folder: str) -> bool:
    """Whether a local path, with links resolved, is inside a folder."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root


@functools.lru_cache(maxsize=1024)
def _is_private(host: str) -> bool:
    """Whether a host is this machine or in its network, judged by its name, its address, or what its name resolves to now."""
    host = host.rstrip(".")
    if not host or host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:  # the name does not resolve, so nothing can be reached
        return False
    return not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in found)
