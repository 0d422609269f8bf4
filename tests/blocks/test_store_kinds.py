"""What every kind of store promises, and what a bucket promises when its server does not behave."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blocks import bucket as bucket_module
from blocks import copies
from blocks.bucket import bucket_at
from blocks.canonical import digest_bytes
from blocks.errors import LedgerError, TrustError
from blocks.store import Store, open_store
from tests.s3 import Faults
from tests.s3 import bucket_url as bucket_url
from tests.s3 import faults as faults
from tests.s3 import s3_server as s3_server


@pytest.fixture
def bucket_store(bucket_url: str, tmp_path: Path) -> Store:
    return open_store(bucket_url, tmp_path / "copies")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "store", tmp_path / "copies")
    return request.getfixturevalue("bucket_store")


def elsewhere(store: Store, folder: Path) -> Store:
    """The same store, seen from a machine that has no copies."""
    return Store(folder, store.bucket) if store.bucket else store


def put_raw(store: Store, digest: str, data: bytes) -> None:
    """Put other content where the content of `digest` belongs, as a broken tool would."""
    if store.bucket is None:
        store.path(digest).parent.mkdir(parents=True, exist_ok=True)
        store.path(digest).write_bytes(data)
        return
    import obstore

    obstore.put(store.bucket._client, f"store/{digest[7:9]}/{digest[7:]}", data, mode="overwrite")
    store.path(digest).unlink(missing_ok=True)


class TestEveryKind:
    def test_bytes_and_files_come_back_by_digest(self, store: Store, tmp_path: Path) -> None:
        content = os.urandom(3 << 20)
        (tmp_path / "file").write_bytes(content)
        digest = store.put_file(tmp_path / "file")
        assert digest == store.put_bytes(content) == digest_bytes(content)
        other = elsewhere(store, tmp_path / "other")
        assert other.get(digest) == content
        assert other.local_copy(digest).read_bytes() == content
        assert (other.has(digest), other.size(digest)) == (True, 3 << 20)

    def test_what_was_never_put_is_not_there(self, store: Store) -> None:
        digest = digest_bytes(b"never")
        assert not store.has(digest)
        for ask in (store.get, store.size, store.local_copy):
            with pytest.raises(FileNotFoundError):
                ask(digest)

    def test_content_that_was_changed_is_refused(self, store: Store) -> None:
        digest = store.put_bytes(b"right")
        put_raw(store, digest, b"wrong")
        with pytest.raises(TrustError, match="does not have its digest"):
            store.get(digest)

    def test_what_is_discarded_is_gone_and_again_is_fine(self, store: Store, tmp_path: Path) -> None:
        digest = store.put_bytes(b"raw")
        store.discard(digest)
        store.discard(digest)
        assert not store.has(digest)
        assert not elsewhere(store, tmp_path / "other").has(digest)
        assert store.put_bytes(b"raw") == digest
        assert store.get(digest) == b"raw"

    def test_many_puts_of_one_content_at_once_are_fine(self, store: Store) -> None:
        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(lambda _: store.put_bytes(b"same"), range(16)))
        assert {store.get(digest) for digest in digests} == {b"same"}

    def test_a_store_goes_to_another_process(self, store: Store) -> None:
        digest = store.put_bytes(b"content")
        assert pickle.loads(pickle.dumps(store)).get(digest) == b"content"


class TestBucket:
    def test_an_empty_copies_folder_is_all_that_a_machine_needs(self, bucket_store: Store) -> None:
        digest = bucket_store.put_bytes(b"content")
        shutil.rmtree(bucket_store.root)
        assert bucket_store.get(digest) == b"content"

    @pytest.mark.parametrize("size", [1000, 20 << 20])
    def test_a_server_that_says_503_is_asked_again(self, bucket_store: Store, faults: Faults, size: int) -> None:
        content = os.urandom(size)
        for method in ("PUT", "POST", "GET", "HEAD"):
            faults.script(method, "503", "503")
        digest = bucket_store.put_bytes(content)
        shutil.rmtree(bucket_store.root)
        for method in ("GET", "HEAD"):
            faults.script(method, "503", "503")
        assert bucket_store.get(digest) == content

    def test_a_server_that_is_busy_for_longer_is_waited_for(self, bucket_store: Store, faults: Faults) -> None:
        faults.script("PUT", *["503"] * 7)  # more often than the library itself asks again
        assert bucket_store.has(bucket_store.put_bytes(b"content"))

    def test_a_server_that_never_recovers_is_given_up(self, bucket_url: str, faults: Faults, tmp_path: Path) -> None:
        store = Store(tmp_path / "copies", bucket_module.Bucket(bucket_url, patience_seconds=1.0))
        faults.script("PUT", *["503"] * 1000)
        with pytest.raises(LedgerError, match="could not put an object"):
            store.put_bytes(b"content")
        assert faults.asked["PUT"] < 30
        faults.script("PUT")
        assert not store.has(digest_bytes(b"content"))  # what is only here does not count
        assert store.get(store.put_bytes(b"content")) == b"content"

    @pytest.mark.parametrize("fault", ["lose", "cut"])
    @pytest.mark.parametrize("size", [1000, 20 << 20])
    def test_a_connection_that_breaks_harms_no_put(
        self, bucket_store: Store, faults: Faults, tmp_path: Path, fault: str, size: int
    ) -> None:
        content = os.urandom(size)
        faults.script("PUT", fault, "", fault)
        digest = bucket_store.put_bytes(content)
        assert elsewhere(bucket_store, tmp_path / "other").get(digest) == content

    def test_a_download_that_breaks_off_is_never_taken_for_the_content(
        self, bucket_store: Store, faults: Faults, tmp_path: Path
    ) -> None:
        content = os.urandom(1 << 20)
        digest = bucket_store.put_bytes(content)
        other = elsewhere(bucket_store, tmp_path / "other")
        faults.script("GET", "half", "half")
        assert other.get(digest) == content
        assert [path for path in other.root.rglob("*") if path.is_file()] == [other.path(digest)]

    @pytest.mark.parametrize("size", [1000, 20 << 20])
    def test_a_truncated_object_is_refused_and_the_next_put_heals_it(self, bucket_store: Store, size: int) -> None:
        content = os.urandom(size)
        digest = digest_bytes(content)
        put_raw(bucket_store, digest, content[: size // 2])
        with pytest.raises(TrustError, match="does not have its digest"):
            bucket_store.get(digest)
        assert bucket_store.put_bytes(content) == digest
        shutil.rmtree(bucket_store.root)
        assert bucket_store.get(digest) == content

    def test_what_is_there_is_not_sent_again(self, bucket_store: Store, faults: Faults) -> None:
        content = os.urandom(20 << 20)
        bucket_store.put_bytes(content)
        puts = faults.asked["PUT"]
        bucket_store.put_bytes(content)
        assert faults.asked["PUT"] == puts

    def test_a_damaged_copy_is_brought_again(self, bucket_store: Store) -> None:
        digest = bucket_store.put_bytes(b"content")
        bucket_store.path(digest).write_bytes(b"damaged")
        assert bucket_store.get(digest) == b"content"

    def test_a_copy_is_used_without_asking(self, bucket_store: Store, faults: Faults, tmp_path: Path) -> None:
        digest = bucket_store.put_bytes(b"content")
        faults.asked.clear()
        assert bucket_store.get(digest) == b"content"
        assert not faults.asked


def test_copies_that_were_not_used_go_first_and_those_in_use_stay(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x" * 100)
        os.utime(path, (number * 1000.0, number * 1000.0))
    assert copies.touched(tmp_path / "1")
    assert copies.trim(tmp_path, most_bytes=200) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]
    assert copies.trim(tmp_path, most_bytes=0) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]  # used within the hour


SECRETS = [
    "s3://AKIA:hush-hush@bucket/prefix",
    "s3://bucket?aws_secret_access_key=hush-hush",
    "s3://bucket?endpoint=https://user:hush-hush@example.org",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        bucket_at(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "http://bucket/x"])
def test_what_is_no_bucket_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is no bucket"):
        open_store(url, tmp_path)


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "az://account/container/prefix"])
def test_the_other_clouds_are_one_url_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    client = bucket_at(url)._client
    assert type(client).__name__ == {"gs": "GCSStore", "az": "AzureStore"}[url[:2]]
    assert client.prefix == "prefix"


def test_the_library_is_loaded_only_when_a_bucket_is_used() -> None:
    code = "import sys, blocks.store, blocks.ledger.query; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
