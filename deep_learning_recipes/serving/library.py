"""The models of a folder, each at its newest version, while versions come and go."""

import threading
from collections.abc import Callable
from pathlib import Path

import grpc
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusResponse,
    ModelVersionStatus,
)

from deep_learning_recipes.serving import layout
from deep_learning_recipes.serving.bundle import Bundle, RequestError, first_line

POLL_SECONDS = 1.0


class Library:
    """Holds the newest version of every model below `folder`.

    `get` gives a bundle that stays alive as long as the caller holds it. `poll` looks
    for new versions; one that does not load is reported once by `say`, and the one
    before stays.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self.say = folder, say
        self.bundles: dict[str, tuple[int, Bundle]] = {}
        self.failures: dict[tuple[str, int], str] = {}
        self.poll()

    def poll(self) -> None:
        """Loads what is new, warms it up, and only then puts it in the place of the
        old."""
        found = layout.models(self.folder)
        for name, versions in found.items():
            version, path = list(versions.items())[-1]
            if name in self.bundles and self.bundles[name][0] == version:
                continue
            try:
                bundle = Bundle(path)
                for record in bundle.warm_up_records():
                    bundle.replay(record)
            except (
                Exception
            ) as error:  # whatever lies in the folder, the server goes on
                self.fail(name, version, first_line(error))
            else:
                self.failures.pop((name, version), None)
                self.bundles[name] = (version, bundle)
                self.say(f"{name} {version} is loaded")
        self.failures = {
            (name, version): message
            for (name, version), message in self.failures.items()
            if version in found.get(name, {})
        }
        for name in self.bundles.keys() - found.keys():
            del self.bundles[name]
            self.say(f"{name} is gone")

    def fail(self, name: str, version: int, message: str) -> None:
        """Remembers why a version did not load. It is tried again at each poll, since
        its files may still be on their way."""
        if self.failures.get((name, version)) != message:
            self.failures[name, version] = message
            self.say(f"{name} {version} does not load: {message}")

    def keep_polling(self, stop: threading.Event) -> None:
        """Polls each second until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            try:
                self.poll()
            except OSError as error:  # the folder is being moved, say
                self.say(f"{self.folder} cannot be read: {error.strerror}")

    def get(self, name: str, version: int | None) -> tuple[int, Bundle]:
        """The model and its version. Raises RequestError (NOT_FOUND) for others than
        the loaded one; None asks for the newest, and so does 0, which OpenVINO's
        clients send for it."""
        loaded = self.bundles.get(name)
        if loaded is None or version not in (None, 0, loaded[0]):
            asked = f"Specific({name}, {version})" if version else f"Latest({name})"
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}"
            )
        return loaded

    def status(self, name: str, version: int | None) -> GetModelStatusResponse:
        """The state of a model's versions. Raises RequestError (NOT_FOUND) if there is
        none."""
        states = {
            number: ModelVersionStatus(
                version=number,
                state=ModelVersionStatus.END,
                status={
                    "error_code": grpc.StatusCode.UNKNOWN.value[0],
                    "error_message": message,
                },
            )
            for (model, number), message in self.failures.items()
            if model == name
        }
        if name in self.bundles:
            number = self.bundles[name][0]
            states[number] = ModelVersionStatus(
                version=number, state=ModelVersionStatus.AVAILABLE, status={}
            )
        asked = [
            state for number, state in states.items() if version in (None, 0, number)
        ]
        if not asked:
            which = f"model {name}" + (f" and version {version}" if version else "")
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of {which}"
            )
        return GetModelStatusResponse(model_version_status=asked)
