"""The objects of a bucket: read, written whole, and written only if nobody else has.

    bucket = Bucket(address)
    bucket.create(address / "leases/7.1", content)       # False if it is there already: exactly one caller gets True

Every name is the name in the bucket. Errors become one message that names the object and what to change. An endpoint
that does not answer is given up after about a minute.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from doors.address import Address
from doors.errors import InputError
from doors.files import named

_REQUEST_SECONDS, _RETRY_SECONDS, _RETRIES = 30, 60, 4
_PART_BYTES = 16 << 20
"""S3 takes 10,000 parts, so an object has at most 160 GB."""
_ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("GOOGLE_BASE_URL",)}
"""Variables that name a server other than the one of the scheme's own company."""


_NO_CREDENTIALS = {
    "s3": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this "
    "machine a role",
    "gs": "there are no credentials; type `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, "
    "or give this machine a service account",
}
_PROBE = ".writable"
_VERSION = {"s3": "e_tag", "gs": "version"}
"""The field by which a server recognises the content that a put is to replace."""


class Unanswered(InputError):
    """The bucket could not be reached, or answered with an error of its own: it may work later."""


class Found(NamedTuple):
    """An object in a listing."""

    bytes: int
    seconds: float
    """When it was last written, by the clock of the bucket."""
    version: str
    """Differs between different contents."""


class Bucket:
    """The bucket of an address. Nothing is asked of it before the first call."""

    def __init__(self, address: Address):
        self._address = address
        self._store = _store(address)

    def check_writable(self, below: Address) -> None:
        """Writes an object below a name and deletes it. Raises InputError if that is not allowed."""
        self.put(below / _PROBE, b"")
        self.delete([below / _PROBE])

    def check_conditions(self, below: Address) -> None:
        """Raises InputError if the server takes no notice of the condition of `create`."""
        probe = below / _PROBE
        self.put(probe, b"")
        if self.create(probe, uuid.uuid4().hex.encode()) is not None:
            raise InputError(
                f"{below}: its server ignores If-None-Match, so that two workers would do the same run; use a server "
                "that knows conditional puts, or a folder"
            )
        self.delete([probe])

    def list(self, below: Address) -> dict[str, Found]:
        """Returns the objects below a name, by their names from there. One request for every 1,000 objects.

        Raises InputError for a name that leads out of a folder.
        """
        import obstore

        found: dict[str, Found] = {}
        with self._naming(below, "read"):
            for page in obstore.list(self._store, prefix=below.key):
                for each in page:
                    name = each["path"].removeprefix(f"{below.key}/")
                    if name.startswith("/") or not set(name.split("/")).isdisjoint(("", ".", "..")):
                        raise InputError(f"{below}: it has an object {name!r}, which no folder can have; delete it")
                    if name.rpartition("/")[2] != _PROBE:  # left by a process that was killed
                        found[name] = Found(each["size"], each["last_modified"].timestamp(), each["e_tag"] or "")
        return found

    def get(self, object: Address) -> bytes:
        """Raises FileNotFoundError if there is no such object."""
        return self.get_version(object)[0]

    def get_version(self, object: Address) -> tuple[bytes, str]:
        """Returns an object and what `replace` takes. Raises FileNotFoundError if there is no such object."""
        import obstore

        with self._naming(object, "read"):
            answer = obstore.get(self._store, object.key)
            return bytes(answer.bytes()), self._version(answer.meta)

    def _version(self, found: Any) -> str:
        return found[_VERSION[self._address.scheme]] or ""

    def has(self, object: Address) -> bool:
        """Returns whether there is such an object."""
        import obstore

        try:
            with self._naming(object, "read"):
                obstore.head(self._store, object.key)
        except FileNotFoundError:
            return False
        return True

    def download(self, object: Address, path: Path) -> None:
        """Writes an object to a new file. Raises FileNotFoundError if there is no such object."""
        import obstore

        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._naming(object, "read"):
            answer = obstore.get(self._store, object.key)
            with _naming_file(path) as file:
                for chunk in answer.stream():
                    file.write(chunk)

    def put(self, object: Address, content: bytes | Path) -> str:
        """Writes an object, replaces an older one, and returns its version. A long file is sent in parts."""
        import obstore

        with self._naming(object, "written"):
            put = obstore.put(self._store, object.key, content, chunk_size=_PART_BYTES, max_concurrency=4)
            return put["e_tag"] or ""

    def create(self, object: Address, content: bytes) -> str | None:
        """Writes an object that does not exist yet, and returns its version; None if it exists. Of several callers
        exactly one gets a version, as long as their contents differ."""
        return self._put_if(object, content, "create")

    def replace(self, object: Address, content: bytes, version: str) -> str | None:
        """Writes an object that still has this version, and returns its new one; None if it was changed or deleted."""
        return self._put_if(object, content, {_VERSION[self._address.scheme]: version})

    def _put_if(self, object: Address, content: bytes, mode: Any) -> str | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._naming(object, "written"):
                return self._version(obstore.put(self._store, object.key, content, mode=mode, use_multipart=False))
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            pass
        # The answer to a request that succeeded may have been lost, and the request repeated.
        with contextlib.suppress(FileNotFoundError):
            there, version = self.get_version(object)
            return version if there == content else None
        return None

    def delete(self, objects: Iterable[Address]) -> None:
        """Deletes objects; one that is not there is no error."""
        import obstore

        for each in objects:
            with self._naming(each, "deleted"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, each.key)

    @contextlib.contextmanager
    def _naming(self, what: Address, done: str) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            words = str(error)
            if "NoSuchBucket" in words or "bucket does not exist" in words:
                raise InputError(f"{what}: there is no bucket {what.bucket}; make it, or correct its name") from error
            if isinstance(error, FileNotFoundError) or _is_precondition(error):
                raise
            if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "AccessDenied" in words:
                raise InputError(
                    f"{what} may not be {done} with the credentials of this process ({_reason(words)}); wanted "
                    "credentials that may list, read and write objects there"
                ) from error
            if "token request" in words:
                raise InputError(f"{what} could not be {done}: {_NO_CREDENTIALS[what.scheme]}") from error
            raise Unanswered(f"{what} could not be {done}: {_reason(words)}{self._where()}") from error

    def _where(self) -> str:
        endpoint = _endpoint(self._address.scheme)
        at = f" at {endpoint}" if endpoint else ""
        return f". Is the server{at} reachable from here? Type the same command again when it is"


def _endpoint(scheme: str) -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS[scheme] if os.environ.get(name)), None)


def _is_precondition(error: Exception) -> bool:
    return type(error).__name__ in ("AlreadyExistsError", "PreconditionError")


def _reason(words: str) -> str:
    """Returns the code that a server gave, or the last sentence of a failed connection, from an error's first line."""
    if "<Code>" in words:
        return words.partition("<Code>")[2].partition("</Code>")[0]
    line = words.partition("\n")[0]
    return line.rpartition(" - ")[2].strip() or line


@contextlib.contextmanager
def _naming_file(path: Path) -> Iterator[Any]:
    with named(path), path.open("xb") as file:
        yield file


def _store(address: Address) -> Any:
    from obstore.store import GCSStore, S3Store

    options: Any = {"timeout": f"{_REQUEST_SECONDS}s", "connect_timeout": "5s"}
    retries: Any = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
    options["allow_http"] = (_endpoint(address.scheme) or "").startswith("http://")
    if address.scheme == "gs":
        return GCSStore(address.bucket, client_options=options, retry_config=retries)
    from obstore.auth.boto3 import Boto3CredentialProvider  # profiles and roles too, not the environment alone

    more: Any = {"endpoint": endpoint} if (endpoint := _endpoint("s3")) else {}
    try:
        provider = Boto3CredentialProvider()
    except ValueError as error:
        raise InputError(f"{address} cannot be used: {_NO_CREDENTIALS['s3']}") from error
    return S3Store(address.bucket, client_options=options, retry_config=retries, credential_provider=provider, **more)
