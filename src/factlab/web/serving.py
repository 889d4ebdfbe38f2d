"""`serve`: the workbench on this machine, until it is stopped."""

import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.errors import InvalidRequestError, MissingPackageError

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

PORT = 7575


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server can be reached.

    Attributes:
        host: name or number to bind to.
        port: of it; 0 for any that is free.
    """

    host: str = "127.0.0.1"
    port: int = PORT

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return self.host in {"127.0.0.1", "localhost", "::1"}

    @property
    def is_everywhere(self) -> bool:
        """Whether it is reached by all addresses that the machine has."""
        return self.host in {"", "0.0.0.0", "::"}  # noqa: S104 - compared, and chosen by the user

    def bound(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            InvalidRequestError: another program does, or the address is not of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen()  # whoever comes before the server is up waits
        except OSError as error:
            listener.close()
            raise InvalidRequestError(
                f"Cannot listen at {self.host}, port {self.port}: {error.strerror or error}. "
                "Choose another with --port, or 0 for any that is free."
            ) from error
        return listener


def serve(
    load: Callable[[], "LanguageModel"],
    folder: str | Path,
    address: Address | None = None,
    runs: Sequence[str | Path] = (),
    opens: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the workbench until it is interrupted.

    Args:
        load: gives the model; called once, while the page can be seen already.
        folder: where jobs and saved edits are kept.
        address: where to listen; by default this machine alone can reach it.
        runs: folders of runs and studies that may be looked at.
        opens: whether to open a browser.
        tell: called with the address for a person to open.

    Raises:
        MissingPackageError: fastapi or uvicorn is not installed.
        InvalidRequestError: nothing can listen at the address, or a folder is not there.
    """
    for each in runs:
        if not Path(each).is_dir():
            raise InvalidRequestError(f"There is no folder '{each}'.")
    try:
        import uvicorn  # noqa: PLC0415 - of the extra `web`

        from factlab.web.app import create_app  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(
            "The workbench needs more packages: pip install 'factlab[web]'."
        ) from error
    from factlab.web.folders import Folders  # noqa: PLC0415
    from factlab.web.guard import LOOPBACK, Guard  # noqa: PLC0415
    from factlab.web.jobs import Jobs  # noqa: PLC0415
    from factlab.web.shelf import Shelf  # noqa: PLC0415
    from factlab.web.worker import Worker  # noqa: PLC0415

    address, folder = address or Address(), Path(folder)
    with address.bound() as listener:
        port = listener.getsockname()[1]
        jobs = Jobs.open(folder / "jobs")
        worker = Worker(
            jobs, Shelf(folder / "edits", folder / "computed", folder / "exports"), load
        )
        token = None if address.is_loopback else secrets.token_urlsafe(24)
        # Nobody knows all names of a machine; a page under a false one would lack the token.
        hosts = None
        if not address.is_everywhere:
            hosts = LOOPBACK | {address.host.lower(), f"[{address.host.lower()}]"}
        folders = Folders([*map(Path, runs)])
        guarded = Guard(create_app(worker, folders), hosts, token)
        host = socket.gethostname() if address.is_everywhere else address.host
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{port}/" + (f"#token={token}" if token else "")
        server = uvicorn.Server(
            uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=1)
        )
        worker.start()
        tell(url)
        if opens:
            webbrowser.open(url)
        try:
            server.run(sockets=[listener])
        finally:
            worker.stop()
