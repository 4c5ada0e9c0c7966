"""A shell on a pseudo-terminal: types a line as a user does and says what the screen shows of it.

    terminal.py SHELL SETUP TYPED...     prints, for each TYPED with a tab typed behind it, what the shell made of it
"""
import os
import pty
import re
import select
import sys
import time

COMMANDS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
MARK = "ready>"


def read_until(terminal, pattern, limit_s):
    """All output up to where it has the pattern, or what there is when the time is over; without control sequences."""
    text, end = "", time.monotonic() + limit_s
    while time.monotonic() < end and not re.search(pattern, text):
        if select.select([terminal], [], [], 0.5)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|[\x07\r]", "", text)
    return text


def main(shell, setup, typed):
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PS1=MARK, TERM="dumb", HISTFILE="/dev/null", COLUMNS="200")
        os.execvp(shell, COMMANDS[shell])
    os.write(terminal, f"{setup}; PS1='{MARK}'; echo set-$((40 + 2))\n".encode())
    read_until(terminal, rf"set-42\s+[%#]?\s*{MARK}", 60)
    for line in typed:
        os.write(terminal, f"{line}\t\t".encode())
        time.sleep(1)
        os.write(terminal, b"\x05@@")
        print(" ".join(read_until(terminal, "@@", 60).split()))
        os.write(terminal, b"\x03")
        read_until(terminal, MARK, 20)
    os.close(terminal)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
