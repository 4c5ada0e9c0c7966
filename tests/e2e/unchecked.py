"""Says which calls pass over the result of a function that can fail: of one that takes a Fault and returns something.

Not meant are functions that only record a fault: all they return is false, or what such a function returns.
"""
import pathlib
import re
import sys

NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"', re.S)
FUNCTION = re.compile(
    r'^(static )?[\w ]*?(\w+)[ *]+(\w+)\([^;{}]*?\bFault \*\w+[^;{}]*\)[^;{}()]*(?:;|\n\{(.*?)\n\})', re.M | re.S)
MEMBER = re.compile(r'(\w+)[ *]+\(\*(\w+)\)\([^;{}]*?\bFault \*\w+[^;{}]*?\)')
CALL = re.compile(r'(?:[;{})]\s*\n\s+|\belse\s+)((?:\w+(?:\.|->))*)(\w+)\(')
RECORDS = {'fault_set', 'fault_prefix', 'fault_reported'}


def returns(body):
    return re.findall(r'\breturn\b\s*(\w*)', body)


def main():
    texts = {path: NOT_CODE.sub(lambda m: re.sub(r'[^\n]', ' ', m[0]), pathlib.Path(path).read_text())
             for path in sys.argv[1:]}
    anywhere, members, of_file, bodies = set(), set(), {}, {}
    for path, text in texts.items():
        statics = of_file[path] = {}
        for static, kind, name, body in FUNCTION.findall(text):
            if static:
                statics[name] = kind != 'void'
            elif kind != 'void':
                anywhere.add(name)
            if body:
                bodies.setdefault((path if static else None, name), returns(body))
        members |= {name for kind, name in MEMBER.findall(text) if kind != 'void'}
    records = {(None, name) for name in RECORDS}
    for _ in range(3):
        records |= {key for key, said in bodies.items()
                    if said and all(word == 'false' or (key[0], word) in records or (None, word) in records
                                    for word in said)}
    bad = False
    for path, text in texts.items():
        for call in CALL.finditer(text):
            name = call[2]
            key = (path if name in of_file[path] else None, name)
            can_fail = name in members if call[1] else of_file[path].get(name, name in anywhere)
            if can_fail and key not in records:
                print(f'{path}:{text.count(chr(10), 0, call.start(2)) + 1}: the result of {name} is passed over')
                bad = True
    sys.exit(bad)


main()
