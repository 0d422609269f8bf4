"""A bucket of S3, Google Cloud Storage or Azure Blob, by URL, through one library (`obstore`, the extra `objects`).

    s3://bucket/prefix?region=eu-west-1&endpoint=https://minio.example.org
    gs://bucket/prefix           az://account/container/prefix

Credentials come from the environment, a workload identity or the machine's own metadata, and never from the URL, which
is printed. (The library does not read the profiles of the clouds' command lines.) A put is whole or not there: one
request, or a multipart upload that shows nothing before it is completed. Throttling, server errors and lost answers are
tried again, for a while.
"""

from __future__ import annotations

import functools
import hashlib
import random
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from blocks.errors import LedgerError

SCHEMES = ("s3", "gs", "az")
PATIENCE_SECONDS = 60.0
"""How long one operation is tried, about, before the bucket counts as out of reach."""

_TRIES = 4  # of ours, around those of the library, which does not repeat what may have been done already
_ONE_REQUEST = 8 << 20  # bytes; more goes in parts
_PIECE = 32 << 20  # bytes of a download in one request, so that a request that hangs is short
_REQUEST_SECONDS = 60
_SETTINGS = ("endpoint", "region")  # what a URL may say after the question mark

_T = TypeVar("_T")


class Found(NamedTuple):
    """An object in the bucket. `modified` is the bucket's own clock, in seconds since the epoch."""

    name: str
    bytes: int
    modified: float


@dataclass(frozen=True)
class Bucket:
    """The objects below `url`. Every method raises LedgerError where the bucket does not answer, or refuses."""

    url: str
    patience_seconds: float = PATIENCE_SECONDS

    def put(self, name: str, source: bytes | Path) -> None:
        """Keep `source` under `name`, for content that never differs under one name.

        What is there already in full length stays; a shorter one, which only a broken upload can have left, is
        replaced.
        """
        length = len(source) if isinstance(source, bytes) else source.stat().st_size
        if length <= _ONE_REQUEST and self._created(name, source):
            return
        if self.size(name) == length:
            return
        self._tried("put", lambda: _obstore().put(self._client, name, source, mode="overwrite"))
        if self.size(name) != length:
            raise self._failed("put", f"{name} is not there in full length after its upload")

    def get(self, name: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        return self._tried("get", lambda: bytes(_obstore().get(self._client, name).bytes()))

    def fetch(self, name: str, target: Path) -> None:
        """Write the object to the file `target`, a piece at a time. Raises FileNotFoundError."""
        length = self.size(name)
        if length is None:
            raise FileNotFoundError(f"{name} is not in {self.url}")
        with target.open("wb") as file:
            for piece in self._pieces(name, length):
                file.write(piece)

    def digest(self, name: str) -> str | None:
        """The SHA-256 of the object as it is in the bucket, as `sha256:<hex>`; None where there is none."""
        length = self.size(name)
        if length is None:
            return None
        hasher = hashlib.sha256()
        for piece in self._pieces(name, length):
            hasher.update(piece)
        return f"sha256:{hasher.hexdigest()}"

    def size(self, name: str) -> int | None:
        """The object's length in bytes; None where there is none of this name."""
        try:
            return int(self._tried("look at", lambda: _obstore().head(self._client, name)["size"]))
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Remove the object; one that is gone already is fine."""
        try:
            self._tried("delete", lambda: _obstore().delete(self._client, name))
        except FileNotFoundError:
            pass  # it is gone

    def names(self, prefix: str) -> Iterator[Found]:
        """The objects whose names begin with the folder `prefix`."""
        for some in self._tried("list", lambda: list(_obstore().list(self._client, prefix))):
            for meta in some:
                yield Found(str(meta["path"]), int(meta["size"]), meta["last_modified"].timestamp())

    def _pieces(self, name: str, length: int) -> Iterator[Any]:
        for start in range(0, length, _PIECE):
            end = min(start + _PIECE, length)
            yield self._tried("get", functools.partial(_obstore().get_range, self._client, name, start=start, end=end))

    @property
    def _client(self) -> Any:
        return _client(self.url, self.patience_seconds)

    def _created(self, name: str, source: bytes | Path) -> bool:
        """Put it where there is nothing yet. False where there is something, or the store knows no such condition."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        try:
            create = functools.partial(_obstore().put, self._client, name, source, mode="create", use_multipart=False)
            self._tried("put", create)
        except (AlreadyExistsError, PreconditionError, NotSupportedError):
            return False
        return True

    def _tried(self, verb: str, act: Callable[[], _T]) -> _T:
        """What `act` gives, tried again after errors that may pass. (A write may then be done twice.)"""
        from obstore.exceptions import BaseError, GenericError, NotFoundError, PermissionDeniedError
        from obstore.exceptions import UnauthenticatedError as Unknown

        give_up = time.monotonic() + self.patience_seconds
        for number in range(1, _TRIES + 1):
            try:
                return act()
            except (FileNotFoundError, NotFoundError) as error:
                raise FileNotFoundError(f"There is no such object in {self.url}.") from error
            except (PermissionDeniedError, PermissionError, Unknown) as error:
                raise self._failed(verb, error) from error
            except (GenericError, OSError) as error:
                if number == _TRIES or time.monotonic() > give_up:
                    raise self._failed(verb, error) from error
            except BaseError as error:
                if _is_condition(error):
                    raise
                raise self._failed(verb, error) from error
            time.sleep(random.uniform(0.1, 0.2) * 2**number)
        raise AssertionError("unreachable")

    def _failed(self, verb: str, error: object) -> LedgerError:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        return LedgerError(
            f"The bucket {self.url} could not {verb} an object: {reason}.",
            kept="Everything recorded before is safe, and finished work waits in the machine's spool.",
            do="Look at its credentials, its address and the network, then try again.",
        )


def bucket_at(url: str) -> Bucket:
    """The bucket at `url`. Raises LedgerError where it is none, or holds a secret (which is not repeated)."""
    parts = urllib.parse.urlsplit(url)
    settings = dict(urllib.parse.parse_qsl(parts.query))
    endpoint = urllib.parse.urlsplit(settings.get("endpoint", ""))
    if parts.username or parts.password or endpoint.username or endpoint.password or settings.keys() - set(_SETTINGS):
        raise LedgerError(
            f"The URL of a bucket at {parts.hostname} says more than {' and '.join(_SETTINGS)}.",
            do="Leave credentials out of it: they come from the environment or the machine's own identity.",
        )
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise LedgerError(
            f"{parts.scheme or 'what was named'}://{parts.hostname or ''} is no bucket.",
            do="It should be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX.",
        )
    _obstore()  # rather now than in the middle of a run
    return Bucket(url)


def _is_condition(error: Exception) -> bool:
    from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

    return isinstance(error, AlreadyExistsError | NotSupportedError | PreconditionError)


def _obstore() -> Any:
    """The library, loaded when a bucket is used and not before."""
    try:
        import obstore
    except ImportError as error:
        raise LedgerError(
            "Buckets need the package obstore, which is not installed.", do="Install `commonfleet[objects]`."
        ) from error
    return obstore


@functools.cache
def _client(url: str, patience_seconds: float) -> Any:
    _obstore()
    from obstore.store import from_url

    parts = urllib.parse.urlsplit(url)
    settings: dict[str, Any] = dict(urllib.parse.parse_qsl(parts.query))
    if parts.scheme == "az":  # the library's az://CONTAINER leaves the account to the environment
        settings["account_name"], parts = parts.hostname, urllib.parse.urlsplit(f"az:/{parts.path}")
    plain = urllib.parse.urlunsplit(parts._replace(query=""))
    options = {"timeout": timedelta(seconds=_REQUEST_SECONDS), "allow_http": False}
    if settings.get("endpoint", "").startswith("http://"):
        options["allow_http"] = True  # said outright in the URL, as of a server in the same rack
    if parts.scheme == "s3":
        settings["checksum_algorithm"] = "SHA256"  # the server refuses a body that was cut or changed on its way
    pause = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
    retry = {"max_retries": 4, "retry_timeout": timedelta(seconds=patience_seconds / _TRIES), "backoff": pause}
    try:
        return from_url(plain, config=settings, client_options=options, retry_config=retry)  # type: ignore[call-overload]
    except Exception as error:
        raise LedgerError(f"The bucket {url} cannot be used: {str(error).strip().splitlines()[0][:300]}.") from error
