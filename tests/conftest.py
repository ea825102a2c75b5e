"""What every test leans on: the zoo, built once a session, and guards against what a test must not touch."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zoo_case import Built

REPOSITORY = Path(__file__).parent.parent

sys.path.insert(0, str(REPOSITORY / "fixtures"))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """A case of the zoo by name, made by PEFT on first use and shared by every test: nobody may write into it."""
    from zoo import CASES, build

    folder = tmp_path_factory.mktemp("zoo")
    made: dict[str, Built] = {}

    def built(name: str) -> Built:
        if name not in made:
            (folder / name).mkdir()
            made[name] = build(CASES[name], folder / name)
        return made[name]

    return built


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell says must not decide what a test sees."""
    for name in ("ADAPTOOL_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]))


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches out is a test that fails elsewhere; only those marked ``real`` may."""
    if request.node.get_closest_marker("real"):
        return
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def tidy_repository() -> Iterator[None]:
    """No test leaves a file in the checkout's top folder, where everything a user runs by mistake would land."""
    before = {path.name for path in REPOSITORY.iterdir()}
    yield
    left = {path.name for path in REPOSITORY.iterdir()} - before
    assert {name for name in left if not name.startswith(".")} == set()
