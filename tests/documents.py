"""What documents show: commands with their output, and what of an output may change."""

import re
import shlex

# What may change from machine to machine. Counts are compared, also where they are written as 2.0.
VARIABLE = (
    (re.compile(r"sha256:[0-9a-f]*"), "<digest>"),
    (re.compile(r"[A-Za-z0-9+/]{40,}=*"), "<base64>"),
    (re.compile(r"-?\d+(\.(?!0\b)\d+(e[-+]?\d+)?|e[-+]?\d+)"), "<number>"),
)


def console_commands(document: str) -> list[tuple[str, str]]:
    """Commands after `$ ` in console blocks, each with the output shown below it."""
    blocks = re.findall(r"```console\n(.*?)```", document, re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output.strip()) for command, _, output in (part.partition("\n") for part in parts)]


def made_targets(document: str) -> set[str]:
    """Targets that a document has make make, in its code and in its console blocks."""
    code = re.findall(r"`([^`\n]+)`", document) + [command for command, _ in console_commands(document)]
    commands = [made[1] for line in code if (made := re.search(r"(?:^|\s)make ([^;&|]+)", line))]
    words = (shlex.split(command, comments=True) for command in commands)
    return {word for line in words for word in line if "=" not in word}


def make_targets(makefile: str) -> set[str]:
    """Targets of a Makefile."""
    lines = re.findall(r"^([\w./ -]+):(?!=)", makefile, re.MULTILINE)
    return {name for line in lines for name in line.split()}


def gist(output: str, is_cut: bool = False) -> str:
    """What must not change from machine to machine; of a cut list, not how many numbers it still shows."""
    if is_cut:
        output = re.sub(r"[-\d.e]*$", "", output)  # the number that the cut went through
    for pattern, name in VARIABLE:
        output = pattern.sub(name, output)
    return re.sub(r"(<number>,)+$", "<number>, …", output) if is_cut else output
