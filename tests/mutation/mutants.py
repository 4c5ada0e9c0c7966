"""The mutants of a C file: its functions as tokens, and the small changes that are made to them.

A mutant is named by its file, its function, and the line before and after the change, so that its name survives
changes elsewhere in the file. Preprocessor lines, strings, `assert`s and what stands outside of functions stay.
"""

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*)
      | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<number>(?:0[xX][0-9a-fA-F.]+(?:[pP][+-]?\d+)?|\d[\d.]*(?:[eE][+-]?\d+)?)[uUlLfF]*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>->|\+\+|--|<<=|>>=|<=|>=|==|!=|&&|\|\||\+=|-=|\*=|/=|%=|&=|\|=|\^=|<<|>>|\.\.\.|.)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

SIGNS = {
    "<": ["<="], "<=": ["<"], ">": [">="], ">=": [">"], "==": ["!="], "!=": ["=="],
    "&&": ["||"], "||": ["&&"], "+=": ["-="], "-=": ["+="], "*=": ["/="], "/=": ["*="],
}
BINARY = {"+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["/"]}
WORDS = {"fmin": ["fmax"], "fmax": ["fmin"], "true": ["false"], "false": ["true"], "ceil": ["floor"],
         "floor": ["ceil"], "break": ["continue"], "continue": ["break"]}
TYPES = {"int", "char", "void", "float", "double", "bool", "const", "unsigned", "signed", "long", "short", "size_t",
         "struct", "sizeof", "return", "case"}


@dataclass
class Token:
    kind: str
    text: str
    at: int
    line: int


@dataclass
class Mutant:
    path: str
    line: int
    key: str
    text: str
    sum: str


def scan(text):
    tokens, line = [], 1
    for match in TOKEN.finditer(text):
        if match.lastgroup != "space":
            tokens.append(Token(match.lastgroup, match.group(), match.start(), line))
        line += match.group().count("\n")
    return tokens


def functions(tokens):
    """(name, first, end) of every function's body: a brace at depth 0 that follows a closing parenthesis."""
    depth, begin, name = 0, None, None
    for i, token in enumerate(tokens):
        if token.text == "{" and token.kind == "sign":
            if depth == 0 and i and tokens[i - 1].text == ")":
                begin, name = i + 1, name_before(tokens, i - 1)
            depth += 1
        elif token.text == "}" and token.kind == "sign":
            depth -= 1
            if depth == 0 and begin is not None:
                yield name, begin, i
                begin = None


def name_before(tokens, close):
    depth = 0
    for i in range(close, -1, -1):
        depth += {")": 1, "(": -1}.get(tokens[i].text, 0)
        if depth == 0:
            return tokens[i - 1].text if i else "?"
    return "?"


def closing(tokens, at, end):
    """Index of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, end):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(tokens[i].text, 0)
        if depth == 0:
            return i
    return None


def is_value(token):
    return (token.kind in ("number", "word") and token.text not in TYPES) or token.text in (")", "]")


def is_operand(token):
    return token.kind in ("number", "word") and token.text not in TYPES


def changes(tokens, first, end):
    """(from token, to token, replacement): tokens[from:to] become the replacement."""
    skip_until, brackets = first, 0
    for i in range(first, end):
        token = tokens[i]
        brackets += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0) if token.kind == "sign" else 0
        if token.text in ("assert", "static_assert") and tokens[i + 1].text == "(":
            skip_until = closing(tokens, i + 1, end) or i
        if i < skip_until:
            continue
        before, after = tokens[i - 1], tokens[i + 1]
        if token.kind == "sign":
            for other in SIGNS.get(token.text, []):
                yield i, i + 1, other
            declares = token.text == "*" and is_declaration(tokens, i)
            if token.text in BINARY and not declares and is_value(before) and (is_operand(after) or after.text == "("):
                for other in BINARY[token.text]:
                    yield i, i + 1, other
                yield from dropped(tokens, i, end)
                yield from swapped(tokens, i)
            if token.text == "!":
                yield i, i + 1, ""
        elif token.kind == "word":
            for other in WORDS.get(token.text, []):
                yield i, i + 1, other
            yield from swapped_arguments(tokens, i, end)
        elif token.kind == "number":
            yield from constants(tokens, i)
        if brackets == 0:
            yield from statements(tokens, i, end)


def is_declaration(tokens, star):
    """`Type *name`, or a cast: no product."""
    before = tokens[star - 2]
    begins = before.text in (";", "{", "}", "const", "struct", "static", "enum", "(", ",")
    return begins and tokens[star - 1].text[:1].isupper()


def constants(tokens, i):
    number = tokens[i].text
    if re.fullmatch(r"\d+[uUlL]*", number):
        digits = re.match(r"\d+", number).group()
        yield i, i + 1, str(int(digits) + 1) + number[len(digits):]
    elif re.fullmatch(r"[\d.]+(?:[eE][+-]?\d+)?[fF]?", number):
        yield i, i + 1, f"(2 * {number})"


def dropped(tokens, i, end):
    """a + b becomes a: the term after a sum or difference, where it is one operand, a call or a bracket."""
    if tokens[i].text not in ("+", "-"):
        return
    last = i + 1
    if tokens[last].kind == "word" and tokens[last + 1].text == "(":
        last = closing(tokens, last + 1, end)
    elif tokens[last].text == "(":
        last = closing(tokens, last, end)
    if last is not None and tokens[last + 1].text in (";", ")", ",", "+", "-", "<", ">", "<=", ">=", "==", "]"):
        yield i, last + 1, ""


def swapped(tokens, i):
    """a - b becomes b - a, a / b becomes b / a, of two plain operands."""
    left, right = tokens[i - 1], tokens[i + 1]
    if tokens[i].text not in ("-", "/", "%") or not is_operand(left) or not is_operand(right):
        return
    if tokens[i - 2].text in (".", "->", "*", "/", "%", "-") or tokens[i + 2].text in (".", "->", "[", "("):
        return
    if left.text != right.text:
        yield i - 1, i + 2, f"{right.text} {tokens[i].text} {left.text}"


def swapped_arguments(tokens, i, end):
    """f(a, b, ...) becomes f(b, a, ...) where both are plain names."""
    if tokens[i + 1].text != "(" or tokens[i].text in TYPES or tokens[i].text in ("if", "while", "for", "switch"):
        return
    if i + 5 < end and tokens[i + 3].text == "," and tokens[i + 5].text in (",", ")"):
        a, b = tokens[i + 2], tokens[i + 4]
        if a.kind == b.kind == "word" and a.text != b.text:
            yield i + 2, i + 5, f"{b.text}, {a.text}"


def statements(tokens, i, end):
    """A statement that assigns, adds or calls is left out."""
    if tokens[i - 1].text not in (";", "{", "}", ")") or tokens[i].kind != "word":
        return
    if tokens[i - 1].text == ")" and tokens[i].line == tokens[i - 1].line:
        return  # a cast, or the rest of a line
    j, assigns, calls = i, False, tokens[i + 1].text == "("
    while j < end and tokens[j].text not in (";", "{", "}"):
        if tokens[j].text in ("(", "["):
            j = closing(tokens, j, end) or end
        assigns = assigns or (j < end and tokens[j].text in ("=", "+=", "-=", "*=", "/=", "|=", "&="))
        j += 1
    declares = tokens[i + 1].kind == "word" or (tokens[i + 1].text == "*" and tokens[i + 2].kind == "word")
    if j >= end or tokens[j].text != ";" or declares or not (assigns or calls):
        return
    if tokens[i].text in ("return", "case", "if", "while", "for", "do", "else", "switch", "goto", "sizeof", "free"):
        return
    yield i, j, ""


def of_file(path, text, digest):
    tokens, found, seen = scan(text), [], {}
    for name, first, end in functions(tokens):
        for begin, stop, replacement in changes(tokens, first, end):
            at = tokens[begin].at
            last = tokens[stop - 1]
            changed = text[:at] + replacement + text[last.at + len(last.text):]
            line_begin, line_end = text.rfind("\n", 0, at) + 1, text.find("\n", last.at)
            before = " ".join(text[line_begin:line_end].split())
            after = " ".join(changed[line_begin:line_end + len(changed) - len(text)].split())
            key = f"{path}:{name}: {before} -> {after}"
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > 1:
                key += f" ({seen[key]})"
            found.append(Mutant(path, tokens[begin].line, key, changed, digest))
    return found
