"""What can be written after `llm-gateway`; each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TypeAlias

from .. import __version__
from ..errors import ConfigurationError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. What the operator must change is one line for each fault."""
    given = parser().parse_args(argv)
    try:
        code: int = import_module(f".{given.module}", __package__).run(given)
    except ConfigurationError as problem:
        for line in problem.message.splitlines():
            print(f"llm-gateway: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to flush at exit
        return 141
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="llm-gateway",
        description="An LLM gateway: one API in front of any provider.",
    )
    _add_version(top)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_demo(commands)
    _add_simulate(commands)
    _add_check(commands)
    _add_token(commands)
    _add_keys(commands)
    return top


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_version(to: argparse.ArgumentParser) -> None:
    to.add_argument("--version", action="version", version=f"llm-gateway {__version__}")


def _add_file(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "file", nargs="?", metavar="FILE", help="settings; ./gateway.toml if there is one"
    )


def _add_serve(commands: _Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve the gateway that a settings file describes",
        description="Serve the gateway that FILE and the environment describe. SIGHUP reloads "
        "channels, aliases and access tokens; SIGTERM lets calls under way end.",
    )
    _add_file(serve)
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (8000); 0 takes a free one")
    serve.add_argument(
        "--workers",
        type=int,
        help="processes that share the port (1); more than one needs a shared store",
    )
    serve.add_argument("--log-dir", help="also write gateway.log into this directory")
    serve.add_argument("--log-level", help="debug, info (the default), warning or error")
    _add_version(serve)
    serve.set_defaults(module="serve")


def _add_demo(commands: _Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="show a plain, a streamed and a failed-over call, then serve",
        description="Start two simulated providers, one with a dead key, and a gateway in front; "
        "call it three times; then serve until Ctrl-C. With OPENAI_API_KEY (or another provider's "
        "variable) set, relay to the real provider instead.",
    )
    demo.add_argument("--once", action="store_true", help="end after the calls")
    demo.add_argument("--port", type=int, default=0, help="port of the gateway (a free one)")
    demo.set_defaults(module="demo")


def _add_simulate(commands: _Commands) -> None:
    simulate = commands.add_parser(
        "simulate",
        help="serve a simulated provider to try things on",
        description="Serve a provider that speaks OpenAI's dialect and answers made-up text.",
    )
    simulate.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    simulate.add_argument("--port", type=int, default=8001, help="port to listen on (8001)")
    simulate.add_argument("--latency", type=float, default=0.0, help="seconds before an answer")
    simulate.add_argument("--tokens-per-second", type=float, help="pace of the text (at once)")
    simulate.add_argument("--key", action="append", metavar="KEY", help="take only these keys")
    simulate.add_argument("--model", action="append", metavar="NAME", help="serve only these")
    simulate.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="TARGET=FAULT",
        help="let calls with this key or model (or *) go wrong: 503, once:429, reset, hang, cut:3",
    )
    simulate.set_defaults(module="simulate")


def _add_check(commands: _Commands) -> None:
    check = commands.add_parser(
        "check",
        help="say what is wrong with a settings file",
        description="Read settings, keys and URLs as serve would, and say what was found.",
    )
    _add_file(check)
    check.add_argument(
        "--test", action="store_true", help="also ask every channel something small (which costs)"
    )
    check.set_defaults(module="check")


def _add_token(commands: _Commands) -> None:
    token = commands.add_parser("token", help="make access tokens")
    actions = token.add_subparsers(title="actions", required=True, metavar="ACTION")
    new = actions.add_parser(
        "new",
        help="make a new access token",
        description="Print a new access token and the table of settings that lets it in.",
    )
    new.add_argument("--name", default="caller", help="whose it is (caller)")
    new.add_argument("--group", help="the group of channels it may use (default)")
    new.set_defaults(module="token")


def _add_keys(commands: _Commands) -> None:
    keys = commands.add_parser(
        "keys",
        help="look after the keys in the shared store",
        description="See and change the keys that a running gateway shows its providers. They are "
        "in the store that [state] names; where that is memory:// there is nothing to see.",
    )
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION")
    listed = _add_keys_action(actions, "list", "show every key, its state and its balance")
    added = _add_keys_action(actions, "add", "put keys in use")
    removed = _add_keys_action(actions, "remove", "take keys out of use", names="+")
    _add_keys_action(actions, "restore", "bring keys back from quarantine", names="+")
    asked = _add_keys_action(actions, "balance", "ask providers what is left now", names="*")
    for shown in (listed, asked):
        shown.add_argument("--json", action="store_true", help="for programs")
    added.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="env:NAME or file:PATH (standard input)"
    )
    _add_plain(added)
    removed.add_argument("--reason", default="by hand", help="what the list will say (by hand)")


def _add_keys_action(
    actions: _Commands, name: str, help_: str, *, names: str | None = None
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=help_, description=f"{help_.capitalize()}.")
    if names is not None:
        action.add_argument(
            "keys",
            nargs=names,
            metavar="KEY",
            help="a fingerprint, or where the secret is: env:NAME, file:PATH, - (standard input)",
        )
        _add_plain(action)
    action.add_argument("--channel", metavar="NAME", help="only this channel")
    action.add_argument("--file", metavar="FILE", help="settings; ./gateway.toml if there is one")
    action.set_defaults(module="keys", action=name)
    return action


def _add_plain(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--plain", action="store_true", help="take secrets written on the command line itself"
    )
