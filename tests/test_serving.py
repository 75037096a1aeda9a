"""The command of docs/serving.md: a prefix, and one origin that may connect."""

import http.client
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "serving.md").read_text()
HOME = "/user/me/"  # where a hub puts somebody's server
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "bGFiIGxhYiBsYWIgbGFiIQ==", "Sec-WebSocket-Protocol": "bokeh",
}  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The lab as the document starts it, on a free port; what it prints as its address."""
    (command,) = re.findall(r"^```sh\n(.*?)^```", DOC, re.M | re.S)
    command = command.replace("\\\n", " ").replace("${JUPYTERHUB_SERVICE_PREFIX}", HOME)
    words = shlex.split(command)
    words[words.index("--port") + 1] = "0"
    folder = tmp_path_factory.mktemp("trainings")
    process = subprocess.Popen(
        [sys.executable, *words[1:]], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ
        | {"ANDERSON_LAB_TRAININGS": str(folder), "ANDERSON_LAB_SWEEPS": str(folder)},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"running at: (\S+)", line):
            yield urlsplit(found[1])
            break
    process.kill()
    process.communicate()


def status(address, path, **headers):
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.request("GET", path, headers=headers)
    found = connection.getresponse().status
    connection.close()
    return found


def test_all_lies_under_the_prefix_alone(address):
    assert address.path == f"{HOME}proxy/absolute/5006/app"
    script = "/static/js/bokeh.min.js"
    assert status(address, address.path.removesuffix("/app") + script) == 200
    assert status(address, script) == status(address, "/app") == 404


def test_only_the_origin_that_is_named_may_connect(address):
    socket = f"{address.path}/ws"
    foreign = status(address, socket, Origin="https://elsewhere.example.org", **UPGRADE)
    assert foreign == 403
    assert status(address, socket, Origin="https://hub.example.org", **UPGRADE) == 101
