"""A shell on a pseudo-terminal: types a line as a user does and says what the screen shows of it.

    terminal.py SHELL SETUP TYPED...     prints, for each TYPED with a tab typed after it, what the shell made of it
"""
import os
import pty
import re
import select
import signal
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


def complete(shell, setup, line):
    """What is on the line of a new shell when tab was pressed twice after it."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PS1=MARK, TERM="dumb", HISTFILE="/dev/null", COLUMNS="200")
        os.execvp(shell, COMMANDS[shell])
    os.write(terminal, f"{setup}; PS1='{MARK}'; echo set-$((40 + 2))\n".encode())
    read_until(terminal, rf"set-42\s+[%#]?\s*{MARK}", 100)
    os.write(terminal, f"{line}\t\t\x05@@".encode())  # to the end of the line: what follows shows that tabs are done
    shown = read_until(terminal, "@@", 100)
    os.kill(child, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(child, 0)
    return " ".join(shown.split())


if __name__ == "__main__":
    for typed in sys.argv[3:]:
        print(complete(sys.argv[1], sys.argv[2], typed))
