"""What a SuperNode starts for a message in place of Flower's own programs: it runs nothing that the server sent.

Flower installs the app bundle of the run, with its dependencies if it is allowed to, and imports the ClientApp in it.
Here the bundle's bytes are hashed, compared with the organisation's policy, and dropped: not unpacked, read or written.
What answers is the installed fedgrpo; for a bundle that is not accepted, it answers with an error code.
"""

from __future__ import annotations

import copy
import hashlib
import sys

from flwr.app import Context, Message

from ..common.errors import FedGRPOError, PolicyError
from ..common.flower_private import run_client_app
from .main import app, organisation_of, refusal
from .organisation.bundle import APP_SHA256, check_bundle

CLIENT_APP = "flwr-clientapp"


def answer(program: str, bundle: bytes, message: Message, context: Context) -> Message:
    """Answer a message with the installed ClientApp, if the policy accepts the bundle.

    Args:
        program: the name under which Flower started this process.
    """
    sha256 = hashlib.sha256(bundle).hexdigest()
    try:
        _check(program, sha256, context)
    except FedGRPOError as error:
        return refusal(message, context, error)
    told = copy.copy(context)
    told.node_config = {**context.node_config, APP_SHA256: sha256}
    return app(message, told)


def _check(program: str, sha256: str, context: Context) -> None:
    if program != CLIENT_APP:
        raise PolicyError(
            APP_SHA256,
            f"The server's app bundle {sha256} asks for {program}, but an organisation answers with a ClientApp only. "
            "Nothing of it was run. Ask the operator what was submitted.",
        )
    check_bundle(organisation_of(dict(context.node_config)).policy, sha256)


def main() -> None:
    """Run the executor: the program it stands for, then the arguments that Flower gives that program."""
    program, *arguments = sys.argv[1:]
    run_client_app(arguments, lambda bundle, message, context: answer(program, bundle, message, context))


if __name__ == "__main__":
    main()
