#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Gather the system calls that lodge-vmm's threads need from comments beside the code that needs them.

A comment on a line of its own, in any .c file of base/ or vmm/:

        /* seccomp: ROLES: CALLS [CONDITION] [(rare)] [-- why] */

ROLES      roles of sandbox.h in lower case, separated by commas: main, vcpu, block, io
CALLS      names of system calls, separated by commas
CONDITION  argN=CONSTANT or argN&MASK=CONSTANT, joined by `and`; N is 0..5; the constants are C constants of the headers
           that compile-filters.c includes, or PID, the process's own id
(rare)     no system test can be expected to see it: the test of minimality leaves it out

A comment that begins like one of these and is none stops the build: a rule must not get lost by a typing mistake.

    collect.py --table FILE --depfile FILE ROOT   C table for compile-filters.c
    collect.py --list ROOT                        one rule a line, for test/system/seccomp.sh
"""

import argparse
import pathlib
import re
import sys

ROLES = ("main", "vcpu", "block", "io")
RULE = re.compile(
    r"^\s*/\*\s*seccomp:\s*(?P<roles>[a-z]+(?:\s*,\s*[a-z]+)*)\s*:"
    r"\s*(?P<calls>[a-z0-9_]+(?:\s*,\s*[a-z0-9_]+)*)"
    r"(?P<condition>\s+arg[0-5][^()-]*?)?"
    r"(?P<rare>\s+\(rare\))?"
    r"(?:\s+--\s*.*?)?\s*\*/\s*$"
)
TERM = re.compile(r"^arg(?P<arg>[0-5])(?:&(?P<mask>\w+))?=(?P<value>\w+)$")


def fail(where, message):
    sys.exit(f"{where}: {message}\n  the form is: /* seccomp: ROLES: CALLS [argN=CONSTANT] [(rare)] [-- why] */")


def parse_condition(text, where):
    terms = []
    for part in re.split(r"\s+and\s+", text.strip()) if text else []:
        match = TERM.match(part)
        if not match:
            fail(where, f"'{part}' is no condition")
        terms.append((match["arg"], match["mask"], match["value"]))
    return tuple(terms)


def sources(root):
    folders = [root / "base", root / "vmm"]
    for folder in list(folders):
        folders += [d for d in folder.rglob("*") if d.is_dir()]
    return folders, sorted(f for d in folders for f in d.glob("*.c"))


def collect(root):
    rules = {}
    folders, files = sources(root)
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not re.search(r"/\*\s*seccomp\b", line):
                continue
            where = f"{path.relative_to(root)}:{number}"
            match = RULE.match(line)
            if not match:
                fail(where, "this is no seccomp rule")
            condition = parse_condition(match["condition"], where)
            for role in re.split(r"\s*,\s*", match["roles"]):
                if role not in ROLES:
                    fail(where, f"there is no role '{role}', only {', '.join(ROLES)}")
                for call in re.split(r"\s*,\s*", match["calls"]):
                    key = (role, call, condition)
                    rare = bool(match["rare"]) and rules.get(key, (True,))[0]
                    rules[key] = (rare, rules.get(key, (None, where))[1])
    for (role, call, condition), (_, where) in rules.items():
        if condition and (role, call, ()) in rules:
            other = rules[(role, call, ())][1]
            fail(where, f"{other} lets {role} make any {call}, so this condition would mean nothing")
    return rules, folders, files


def table(rules):
    out = ["/* Made by collect.py from the seccomp comments; do not edit. */"]
    for (role, call, condition), (_, where) in sorted(rules.items()):
        terms = "".join(
            f"{{ {arg}, {mask or 'UINT64_MAX'}, {'SANDBOX_PID' if value == 'PID' else value} }}, "
            for arg, mask, value in condition
        )
        out.append(
            f"{{ SANDBOX_ROLE_{role.upper()}, SCMP_SYS({call}), {len(condition)}, {{ {terms}}}, "
            f'"{where}: {call}" }},'
        )
    return "\n".join(out) + "\n"


def listing(rules):
    lines = []
    for (role, call, condition), (rare, where) in sorted(rules.items()):
        terms = ",".join(f"arg{a}{'&' + m if m else ''}={v}" for a, m, v in condition) or "-"
        lines.append(f"{role} {call} {terms} {'rare' if rare else 'seen'} {where}")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description="gather seccomp rules")
    parser.add_argument("--table")
    parser.add_argument("--depfile")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("root", type=pathlib.Path)
    options = parser.parse_args()
    rules, folders, files = collect(options.root)
    if options.list:
        sys.stdout.write(listing(rules))
    if options.table:
        pathlib.Path(options.table).write_text(table(rules), encoding="utf-8")
    if options.depfile:
        # Folders too: their time changes when a file is added.
        inputs = " ".join(str(p).replace(" ", "\\ ") for p in folders + files)
        pathlib.Path(options.depfile).write_text(f"{options.table}: {inputs}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
