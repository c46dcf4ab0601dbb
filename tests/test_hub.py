"""Names on the hub: huggingface_hub itself against a small server that speaks as the hub does, and without one."""

import hashlib
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import ghn
from ghn.adapters.hub import fetch
from ghn.errors import CheckpointError
from ghn.io import CONFIG, TENSORS
from ghn.model import GHN, GHNConfig

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys, ghn
from ghn.errors import GHNError
for name in sys.argv[1:]:
    try:
        print(ghn.load(name).model.config.num_classes)
    except GHNError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Repositories as folders: the list of files, and the files with commit and checksum."""

    root: Path

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            files = sorted((self.root / parts[2] / parts[3]).glob("*"))
            if parts[4:5] == ["tree"]:
                listed = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": COMMIT} for p in files]
                return self._send(json.dumps(listed).encode(), body)
            siblings = [{"rfilename": p.name} for p in files]
            return self._send(
                json.dumps({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}).encode(), body
            )
        path = self.root.joinpath(*parts[:2], *parts[4:])
        if parts[2:3] != ["resolve"] or not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        return self._send(content, body, {"ETag": f'"{checksum}"', "X-Repo-Commit": COMMIT})

    def _send(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def make(classes: int) -> GHN:
    return GHN(GHNConfig(num_classes=classes, hid=8, max_shape=(8, 8, 11, 11)))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("hub")
    ghn.save(root / "me" / "ours", make(5), image_size=16, classes=[*"abcde"], card={})
    (root / "me" / "one").mkdir()
    torch.save(make(6).state_dict(), root / "me" / "one" / "ghn2.pt")
    (root / "me" / "two").mkdir()
    for name, classes in (("a.pt", 7), ("b.pt", 8)):
        (root / "me" / "two" / name).write_bytes(pickle.dumps(make(classes).state_dict(), 4))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    server.server_close()


def load(names: Sequence[str], address: str, cache: Path, **more: str) -> list[str]:
    """What `ghn.load` finds, or says, in a process that takes this address for the hub."""
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin", **more}
    command = [sys.executable, "-c", LOAD, *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def offline(names: Sequence[str], cache: Path) -> list[str]:
    return load(names, "http://127.0.0.1:9", cache, HF_HUB_OFFLINE="1")


def test_fetched_kept_and_checked(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = hub
    *found, said = load(["hf:me/ours", "hf:me/one", "hf:me/two/b.pt", "hf:me/two/a.pt", "hf:me/two"], address, tmp_path)
    assert found == ["5", "6", "8", "7"]
    assert "has hf:me/two/a.pt, hf:me/two/b.pt" in said
    (blob,) = (path.resolve() for path in tmp_path.glob("**/snapshots/*/b.pt"))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    *found, damaged, first, second = offline(
        ["hf:me/ours", "hf:me/two/a.pt", "hf:me/two/b.pt", "hf:SamsungSAILMontreal/ghn3/ghn3tm8.pt", "hf:me/no"],
        tmp_path,
    )
    assert found == ["5", "7"]  # from the cache, with nobody there
    assert "is damaged: its checksum is not the hub's" in damaged
    assert first.startswith("hf:SamsungSAILMontreal/ghn3/ghn3tm8.pt is not in the cache and cannot be fetched")
    assert "`hf download SamsungSAILMontreal/ghn3 ghn3tm8.pt` fetches it" in first
    assert "`hf download me/no` fetches it" in second


@pytest.mark.parametrize("name", ["", "one", "a/b c", "a/b/../../c", "a//b"])
def test_names_that_are_none_are_said(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no name on the hub|is not in the cache"):
        fetch(name)


def test_files_of_a_folder_of_ours() -> None:
    from ghn.adapters.hub import FOLDER

    assert set(FOLDER) == {CONFIG, TENSORS}
