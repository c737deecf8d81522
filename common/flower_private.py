"""The private names of Flower that this package uses: the only file that imports `flwr.supercore`.

Flower promises nothing about them. `tests/server/test_flower_contract.py` holds what they must do, and `.ci/flower`
runs it with every version of Flower that pyproject.toml allows.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from flwr.app import Context, Message
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "Run",
    "executor_programs",
    "get_all_nested_objects",
    "identify_process",
    "inflate_object_from_contents",
    "run_client_app",
    "run_supernode",
    "set_message_id",
    "supernode_settings",
]

Answer = Callable[[bytes, Message, Context], Message]
"""(bytes of the app bundle, message, context) -> reply."""


def identify_process() -> None:
    """Give this process the identity without which Flower makes no message."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def set_message_id(message: Message, message_id: str) -> None:
    """Write the id that otherwise the SuperLink assigns."""
    message.metadata.__dict__["_message_id"] = message_id


def executor_programs() -> tuple[str, ...]:
    """Return the name of every program that Flower's SuperExec may start."""
    return tuple(sorted(TASK_TYPE_TO_COMMAND.values()))


def supernode_settings(options: list[str]) -> tuple[str, dict[str, Any]]:
    """Return (isolation, node configuration) as flower-supernode reads them from its options.

    Raises:
        ValueError: the node configuration is not of Flower's form.
    """
    from click import ClickException
    from flwr.common.config import parse_config_args
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as parser  # pyright: ignore

    found = parser().parse_args(options)
    try:
        return str(found.isolation), dict(parse_config_args([found.node_config or ""]))
    except ClickException as error:
        raise ValueError(error.message) from error


def run_supernode(options: list[str], accepts: Callable[[bytes], bool]) -> None:
    """Run flower-supernode in this process; returns when its connection has ended by an error, which it has logged.

    Flower opens the app bundle of each new run for the settings in it. Here it opens those that `accepts` knows; a run
    with another one has the settings that the server names beside it, and is left to the executor to refuse.
    """
    from flwr.supernode import start_client_internal as worker
    from flwr.supernode.cli import flower_supernode

    def settings_of(bundle: bytes, run: Run) -> dict[str, Any]:
        if hashlib.sha256(bundle).hexdigest() != run.fab_hash:
            raise ValueError("the server's app bundle is not the one that it names for the run")
        return dict(opened(bundle, run) if accepts(bundle) else run.override_config)

    opened = _put(worker, "get_fused_config_from_fab", settings_of)
    sys.argv = ["flower-supernode", *options]
    flower_supernode()


def run_client_app(arguments: list[str], answer: Answer) -> None:
    """Run flwr-clientapp in this process, with an app of one's own in place of the one in the app bundle.

    The bundle's bytes end in `answer`: what Flower's functions get after it is empty, so that a version that unpacked a
    bundle by another function than the one replaced here would have nothing to unpack. A name that Flower has no more
    ends the process before anything is asked for.

    Args:
        arguments: those of flwr-clientapp.
    """
    from flwr.common.args import try_obtain_flwr_app_token
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.cli.flwr_clientapp import _parse_args_run_flwr_clientapp as parser  # pyright: ignore
    from flwr.supernode.runtime import run_clientapp as runtime

    bundles: list[bytes] = []

    def pull_without_bundle(client: Any) -> tuple[Message, Context, Run, Any]:
        message, context, run, bundle = pull(client)
        bundles.append(bundle.content)
        return message, context, replace(run, fab_id="-/-", fab_version="-"), replace(bundle, hash_str="", content=b"")

    def install_nothing(*_: object, **__: object) -> None:
        """Do not unpack the bundle."""

    def load_own(*_: object, **__: object) -> Callable[..., Callable[[Message, Context], Message]]:
        return lambda *_: lambda message, context: answer(bundles[-1], message, context)

    pull = _put(runtime, "pull_task_input", pull_without_bundle)
    _put(runtime, "install_from_fab", install_nothing)
    _put(runtime, "get_load_client_app_fn", load_own)
    options = parser().parse_args(arguments)
    runtime.run_clientapp(
        runtime_api_address=options.runtime_api_address,
        token=try_obtain_flwr_app_token(options),
        insecure=options.insecure,
        certificates=validate_and_resolve_root_certificates(options.root_certificates, options.insecure),
        parent_pid=options.parent_pid,
        runtime_dependency_install=False,
    )


def _put(module: ModuleType, name: str, value: object) -> Any:
    """Replace a module's name, which it must have, and return what it meant."""
    before = getattr(module, name)
    setattr(module, name, value)
    return before
