"""Scripts that let a shell complete commands, options and files, made from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from imagearchive.cli.output import write
from imagearchive.cli.parser import build_parser

__all__ = ["run", "script"]


def run(arguments: argparse.Namespace) -> int:
    """Print the script of a shell."""
    write([script(arguments.shell)], end="")
    return 0


def script(shell: str) -> str:
    """Return the completion script of ``bash``, ``zsh`` or ``fish``."""
    return _SCRIPTS[shell](_commands())


class _Command:
    """What can be completed after the name of a command."""

    def __init__(self, name: str, summary: str, parser: argparse.ArgumentParser) -> None:
        self.name = name
        self.summary = summary
        self.options: list[tuple[list[str], str, list[str]]] = []
        self.words: list[str] = []
        for action in parser._actions:
            choices = [str(choice) for choice in action.choices or ()]
            if action.option_strings:
                self.options.append((list(action.option_strings), action.help or "", choices))
            else:
                self.words += choices


def _commands() -> list[_Command]:
    _, commands = build_parser()
    return [
        _Command(name, (parser.description or "").rstrip("."), parser)
        for name, parser in commands.items()
    ]


def _bash(commands: list[_Command]) -> str:
    names = " ".join(command.name for command in commands)
    cases = []
    for command in commands:
        words = [word for options, _, _ in command.options for word in options] + command.words
        cases.append(f"    {command.name}) words='{' '.join(words)}' ;;")
    return f"""\
# bash completion for imagearchive; load it with: source <(imagearchive completion bash)
_imagearchive() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words=''
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{names} --help --version' -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{chr(10).join(cases)}
  esac
  if [ "${{COMP_WORDS[1]}}" = completion ] || [ "${{current#-}}" != "$current" ]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    compopt -o filenames 2>/dev/null
    local IFS=$'\\n'
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -F _imagearchive imagearchive
"""


def _zsh(commands: list[_Command]) -> str:
    names = "\n".join(f"    {_quote(f'{c.name}:{c.summary}')}" for c in commands)
    cases = []
    for command in commands:
        specs = []
        for options, summary, choices in command.options:
            value = f": :({' '.join(choices)})" if choices else ""
            specs += [_quote(f"{option}[{_bracketless(summary)}]{value}") for option in options]
        rest = _quote(f"*: :({' '.join(command.words)})") if command.words else "'*:file:_files'"
        cases.append(f"    {command.name}) _arguments {' '.join([*specs, rest])} ;;")
    return f"""\
#compdef imagearchive
# zsh completion for imagearchive; load it with: source <(imagearchive completion zsh)
_imagearchive() {{
  local -a commands
  commands=(
{names}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
{chr(10).join(cases)}
  esac
}}
compdef _imagearchive imagearchive
"""


def _fish(commands: list[_Command]) -> str:
    lines = [
        "# fish completion for imagearchive; load it with: imagearchive completion fish | source"
    ]
    for command in commands:
        lines.append(
            f"complete -c imagearchive -n __fish_use_subcommand -f -a {command.name} "
            f"-d {_quote(command.summary)}"
        )
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        for options, summary, choices in command.options:
            flags = " ".join(map(_fish_flag, options))
            values = f" -x -a {_quote(' '.join(choices))}" if choices else ""
            lines.append(f"complete -c imagearchive {seen} {flags}{values} -d {_quote(summary)}")
        if command.words:
            words = _quote(" ".join(command.words))
            lines.append(f"complete -c imagearchive {seen} -f -a {words}")
    return "\n".join(lines) + "\n"


def _fish_flag(option: str) -> str:
    if option.startswith("--"):
        return f"-l {option[2:]}"
    # Letters of one dash can be joined, words cannot.
    return f"-s {option[1:]}" if len(option) == 2 else f"-o {option[1:]}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _bracketless(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", " ")


_SCRIPTS: Final[dict[str, Callable[[list[_Command]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
