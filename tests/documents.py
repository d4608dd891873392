"""What documents show: commands with their output, and what of an output may change."""

import re

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


def gist(output: str, is_cut: bool = False) -> str:
    """What must not change from machine to machine; of a cut list, not how many numbers it still shows."""
    if is_cut:
        output = re.sub(r"[-\d.e]*$", "", output)  # the number that the cut went through
    for pattern, name in VARIABLE:
        output = pattern.sub(name, output)
    return re.sub(r"(<number>,)+$", "<number>, …", output) if is_cut else output
