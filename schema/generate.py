#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write from lodge.yaml what must agree with it.

usage: generate.py lodge.yaml WHAT OUTPUT        (templates.yaml lies beside it)

WHAT is one of
  header, source      C structs, their typed functions, and the tables that schema/*.c walk
  bash, zsh, fish     shell completions
  man:TEMPLATE        the man page TEMPLATE (roff), with every line `.\\" @options COMMAND@` replaced by a table
  markdown            every object, command and option as Markdown tables
  openapi:VERSION     the routes of lodged's API as an OpenAPI 3.1 document (JSON); openapi-c:VERSION: the same as a C array

A mistake in lodge.yaml (an unknown property, a default outside its range, a name used twice) ends the build with a
message that names the place. See the head of lodge.yaml for what the properties mean and schema.h for the tables.
"""
import copy
import glob
import json
import os
import re
import sys

import yaml

sys.dont_write_bytecode = True  # nothing but sources lies beside this file
import openapi  # noqa: E402

SECTIONS = {"enums", "objects", "templates", "api", "commands"}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
FIELD_KEYS = {"type", "required", "default", "min", "max", "multiple", "max_items", "max_bytes", "pattern",
              "charset", "help", "option", "count"}
KINDS = {"bool": "SCHEMA_BOOL", "int": "SCHEMA_INT", "fd": "SCHEMA_FD", "size": "SCHEMA_SIZE",
         "string": "SCHEMA_STRING", "path": "SCHEMA_STRING", "enum": "SCHEMA_ENUM", "object": "SCHEMA_OBJECT",
         "list of int": "SCHEMA_INT_LIST", "list of string": "SCHEMA_STRING_LIST", "list": "SCHEMA_OBJECT_LIST"}
CHARSETS = {"text": "SCHEMA_CHARSET_TEXT", "printable": "SCHEMA_CHARSET_PRINTABLE", "any": "SCHEMA_CHARSET_ANY"}
NOTICE = "Made by schema/generate.py from schema/lodge.yaml. Do not edit."


class Mistake(Exception):
    """Something in lodge.yaml that cannot be right."""


def need(condition, message):
    if not condition:
        raise Mistake(message)


def number(value):
    """512M -> 536870912; a plain number stays."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)([KMGT])", value)
        need(match, f"{value} is no size")
        return int(match.group(1)) * UNITS[match.group(2)]
    return value


def size_text(value):
    for unit, factor in reversed(UNITS.items()):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def c_string(text):
    if text is None:
        return "NULL"
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Field:
    def __init__(self, schema, owner, name, raw):
        where = f"{owner}.{name}"
        need(set(raw) <= FIELD_KEYS, f"{where}: unknown property {set(raw) - FIELD_KEYS}")
        need(raw.get("help"), f"{where}: has no help")
        self.name, self.member, self.help, self.where = name, name, raw["help"], where
        self.type, _, self.ref = raw["type"].partition(": ")
        self.type = "list" if self.type == "list of" else self.type
        need(self.type in KINDS, f"{where}: unknown type {raw['type']}")
        self.kind = KINDS[self.type]
        self.required = raw.get("required", False)
        self.is_list = self.type.startswith("list")
        self.option = raw.get("option")
        self.count = raw.get("count", False)
        self.max_items = raw.get("max_items", 0)
        need(not self.is_list or self.max_items > 0, f"{where}: a list needs max_items")
        self.pattern = raw.get("pattern")
        if self.pattern:
            re.compile(self.pattern)
        is_string = self.type in ("string", "path", "list of string")
        need(not is_string or self.type == "path" or raw.get("max_bytes"), f"{where}: a string needs max_bytes")
        self.max_bytes = raw.get("max_bytes", 4095 if self.type == "path" else 0)
        self.charset = CHARSETS[raw.get("charset", "any" if self.type == "path" else "text")]
        self.values = schema.enums.get(self.ref) if self.type == "enum" else None
        need(self.type != "enum" or self.values, f"{where}: unknown enum {self.ref}")
        if self.type in ("object", "list"):
            need(self.ref in schema.raw["objects"], f"{where}: unknown object {self.ref}")
        self.set_numbers(raw, where)

    def set_numbers(self, raw, where):
        low, high = (-1, 1048575) if self.type == "fd" else (0, 0)
        self.min, self.max = number(raw.get("min", low)), number(raw.get("max", high))
        self.multiple = number(raw.get("multiple", 0))
        self.default = raw.get("default")
        self.preset, self.preset_text = 0, None
        numeric = self.type in ("int", "size", "fd", "list of int")
        if self.type in ("int", "list of int"):
            need("max" in raw and 0 <= self.min <= self.max < 1 << 32, f"{where}: an int needs min..max in 0..2^32-1")
        if self.type == "size":
            need("max" in raw and 0 <= self.min <= self.max < 1 << 63, f"{where}: a size needs min..max")
        self.optional_number = (self.type in ("int", "size") and self.default is None and not self.required
                                and self.min > 0)
        if self.type == "fd":
            self.preset = -1 if self.default is None else self.default
        if self.default is None:
            return
        need(not self.required, f"{where}: required and a default contradict each other")
        if self.type == "bool":
            self.preset = int(self.default)
        elif self.type == "enum":
            need(self.default in self.values, f"{where}: default {self.default} is none of {self.values}")
            self.preset = self.values.index(self.default)
        elif numeric:
            self.preset = number(self.default)
            need(self.min <= self.preset <= self.max, f"{where}: default {self.default} is out of range")
        else:
            need(self.type == "string", f"{where}: a {self.type} takes no default")
            self.preset_text = self.default

    def limits(self):
        """The words of schema_describe_limits(), for man pages."""
        plain = self.optional_number or self.required
        if self.type == "int":
            return f"{self.min}..{self.max}" + ("" if plain else f", default {self.preset}")
        if self.type == "size":
            return f"{size_text(self.min)}..{size_text(self.max)}" + \
                ("" if plain else f", default {size_text(self.preset)}")
        if self.type == "fd":
            return f"{self.min}..{self.max}" + ("" if self.required else f", default {self.preset}")
        if self.type == "enum":
            return ", ".join(self.values) + ("" if self.required else f", default {self.values[self.preset]}")
        if self.type == "bool":
            return f"default {'true' if self.preset else 'false'}"
        if self.is_list:
            return f"up to {self.max_items}"
        if self.max_bytes and self.type != "path":
            return f"up to {self.max_bytes} bytes"
        return ""


class Object:
    def __init__(self, schema, name, raw):
        self.name, self.help, self.c_name = name, raw["help"], raw["c_name"]
        self.base = schema.objects[raw["extends"]] if "extends" in raw else None
        self.rules = (self.base.rules if self.base else []) + raw.get("rules", [])
        self.own = [Field(schema, name, n, f) for n, f in raw["fields"].items()]
        self.fields = [self.inherit(f) for f in self.base.fields] if self.base else []
        self.fields += self.own
        names = [f.name for f in self.fields]
        need(len(names) == len(set(names)), f"{name}: a field's name is used twice")

    @staticmethod
    def inherit(field):
        """The same key in JSON; in C it lies in the struct that comes first."""
        copy_of = copy.copy(field)
        copy_of.member = "base." + field.member
        return copy_of

    def field(self, name):
        for field in self.fields:
            if field.name == name:
                return field
        raise Mistake(f"{self.name} has no field {name}")


class Option:
    """One option or argument of a command."""

    def __init__(self, schema, command, obj, field, argument=None):
        self.obj, self.field, self.command = obj, field, command
        raw = field.option or {}
        self.name = argument or raw.get("name")
        self.optional = self.rest = False  # of an argument
        self.complete = None               # of an argument: what `lodge complete` lists for it
        self.head = self.head_value = None
        self.sub = []
        if field.type == "list":
            item = schema.objects[field.ref]
            self.head = item.field(raw["head"]) if "head" in raw else None
            self.head_value = item.field(raw["head_value"]) if "head_value" in raw else None
            self.sub = [f for f in item.fields if f not in (self.head, self.head_value)]
        self.templates = list(schema.templates) if field.where == "machine_definition.template" else []
        self.arg = None if field.type == "bool" else raw.get("arg") or "|".join(field.values or ["VALUE"])
        if self.sub:
            self.arg += "".join(f"[,{f.name}{self.sub_arg(f)}]" for f in self.sub)

    @staticmethod
    def sub_arg(field):
        if field.values:
            return "=" + "|".join(field.values)
        words = {"bool": "=on|off", "size": "=SIZE", "int": "=N", "list of int": "=N-M", "object": ".KEY=N"}
        return words.get(field.type, "=TEXT")


class Command:
    KEYS = {"summary", "short", "arguments", "options", "program", "hidden"}

    def __init__(self, schema, name, raw):
        need(set(raw) <= self.KEYS, f"{name}: unknown property {set(raw) - self.KEYS}")
        self.name, self.summary, self.short = name, raw["summary"], raw.get("short")
        self.hidden = raw.get("hidden", False)    # for scripts: not listed
        self.program = raw.get("program", False)  # a program of its own, no command of lodge
        self.c_name = "schema_command_" + name.replace(" ", "_").replace("-", "_")
        self.objects, self.arguments, self.options = [], [], []
        for argument in raw.get("arguments", []):
            obj, field = self.find(schema, argument["field"])
            option = Option(schema, self, obj, field, argument["name"])
            option.optional = argument.get("optional", False)
            option.rest, option.complete = argument.get("rest", False), argument.get("complete")
            need(not self.arguments or not self.arguments[-1].field.is_list, f"{name}: a list is the last argument")
            self.arguments.append(option)
        left_out = {spec[1:] for spec in raw.get("options", []) if spec.startswith("-")}
        for spec in raw.get("options", []):
            if spec.startswith("-"):
                continue
            obj_name, _, field_name = spec.partition(".")
            need(obj_name in schema.objects, f"{name}: unknown object in {spec}")
            obj = schema.objects[obj_name]
            fields = [f for f in obj.fields if f.option] if field_name == "*" else [obj.field(field_name)]
            for field in [f for f in fields if f"{obj_name}.{f.name}" not in left_out]:
                need(field.option, f"{name}: {spec} has no option")
                self.use(obj)
                self.options.append(Option(schema, self, obj, field))
        names = [o.name for o in self.options]
        need(len(names) == len(set(names)), f"{name}: an option's name is used twice")
        need(len(self.objects) <= 6, f"{name}: more objects than SCHEMA_OBJECTS_MAX")

    def use(self, obj):
        if obj not in self.objects:
            self.objects.append(obj)

    def find(self, schema, spec):
        obj_name, _, field_name = spec.partition(".")
        obj = schema.objects[obj_name]
        self.use(obj)
        return obj, obj.field(field_name)

    def usage(self):
        words = [a.name + ("..." if a.field.is_list else "") for a in self.arguments]
        words = [f"[{w}]" if a.optional else w for w, a in zip(words, self.arguments)]
        return " ".join(([] if self.program else ["lodge"]) + [self.name] + words + (["[OPTION]..."] if self.options else []))

    def named(self):
        """Each name that it goes by: the short one is a command of its own for the shells."""
        names = [self.name] + ([self.short] if self.short else [])
        return [(name, self) for name in names]


class Route:
    """One request of lodged's API."""

    KEYS = {"route", "summary", "role", "query", "body", "patch", "answer", "status", "operation", "dry_run", "dry_answer",
            "if_match", "raw", "secret", "template", "upload"}
    ROLES = ["viewer", "operator", "admin"]

    def __init__(self, schema, name, raw):
        need(set(raw) <= self.KEYS, f"api.{name}: unknown property {set(raw) - self.KEYS}")
        self.name, self.summary, self.role = name, raw["summary"], raw["role"]
        self.method, _, self.path = raw["route"].partition(" ")
        need(self.role in self.ROLES + ["none"], f"api.{name}: unknown role {self.role}")
        for key in ("query", "body", "answer", "dry_answer"):
            need(raw.get(key) is None or raw[key] in schema.objects, f"api.{name}: unknown object {raw.get(key)}")
            setattr(self, key, schema.objects[raw[key]] if raw.get(key) else None)
        self.patch = raw.get("patch", False)          # the body is a JSON merge patch of the object
        self.operation = raw.get("operation", False)  # answered by 202 and an operation
        self.dry_run = raw.get("dry_run", False)
        self.template = raw.get("template", False)    # the body's template fills in what the body leaves out
        self.if_match = raw.get("if_match", False)
        self.upload = raw.get("upload", False)        # the body is a file's bytes
        need(not (self.upload and self.body), f"api.{name}: a body is an object or an upload")
        self.secret = raw.get("secret", False)        # given once: no Idempotency-Key
        self.raw = raw.get("raw")                     # media type of an answer that is no JSON; "websocket"
        self.status = raw.get("status", 202 if self.operation else 200)
        if self.operation:
            self.answer = schema.objects["operation"]
            need(not self.dry_run or self.dry_answer, f"api.{name}: a dry run needs a dry_answer, for it makes no operation")
        elif self.dry_run:
            need(not self.dry_answer, f"api.{name}: dry_answer is for operations")
            self.dry_answer = self.answer
        need(not self.dry_run or (self.query and any(f.name == "dry_run" for f in self.query.fields)),
             f"api.{name}: its query has no dry_run")
        need(self.raw or self.answer, f"api.{name}: has neither an answer nor raw")
        self.parameters = re.findall(r"\{(\w+)\}", self.path)


class Template:
    """Values for fields of a machine_definition, each with its reason."""

    OWN = {"name", "uuid", "image", "kernel", "initrd", "exec", "template"}  # these are a person's to say

    def __init__(self, definition, name, raw):
        need(set(raw) == {"summary", "fields"}, f"templates.{name}: has summary and fields")
        self.name, self.summary, self.fields = name, raw["summary"], []
        for field_name, choice in raw["fields"].items():
            where = f"templates.{name}.{field_name}"
            need(set(choice) == {"value", "why"} and choice["why"], f"{where}: has a value and why")
            need(field_name not in self.OWN, f"{where}: is not a template's to choose")
            self.check(definition.field(field_name), choice["value"], where)
            self.fields.append((field_name, choice["value"], choice["why"]))

    @staticmethod
    def check(field, value, where):
        """What is no list or object; a unit test parses the whole."""
        kinds = {"bool": bool, "int": int, "size": (int, str), "enum": str, "string": str, "object": dict}
        need(isinstance(value, kinds.get(field.type, list)), f"{where}: {value!r} is no {field.type}")
        if field.type in ("int", "size"):
            need(field.min <= number(value) <= field.max, f"{where}: {value} is out of range")
        if field.type == "enum":
            need(value in field.values, f"{where}: {value} is none of {field.values}")

    @staticmethod
    def text(value):
        """A value as a person reads it."""
        return value if isinstance(value, str) else json.dumps(value)


class Schema:
    def __init__(self, path):
        with open(path, encoding="utf-8") as stream:
            self.raw = yaml.safe_load(stream)
        for other in sorted(glob.glob(os.path.join(os.path.dirname(path), "*.yaml"))):
            if os.path.basename(other) != os.path.basename(path):
                self.merge(other)
        self.enums = self.raw["enums"]
        for name, values in self.enums.items():
            need(all(isinstance(v, str) for v in values), f"enum {name}: quote the values that YAML takes for others")
        self.objects = {}
        for name, raw in self.raw["objects"].items():
            self.objects[name] = Object(self, name, raw)
        self.templates = {n: Template(self.objects["machine_definition"], n, t) for n, t in self.raw["templates"].items()}
        self.routes = [Route(self, n, r) for n, r in self.raw["api"].items()]
        everything = [Command(self, n, c) for n, c in self.raw["commands"].items()]
        self.all_commands = [c for c in everything if not c.program]
        self.commands = [c for c in self.all_commands if not c.hidden]
        self.programs = [c for c in everything if c.program]

    def merge(self, path):
        """What a file beside lodge.yaml adds."""
        with open(path, encoding="utf-8") as stream:
            raw = yaml.safe_load(stream)
        for section, entries in raw.items():
            need(section in SECTIONS, f"{path}: unknown section {section}")
            mine = self.raw.setdefault(section, {})
            twice = set(entries) & set(mine)
            need(not twice, f"{path}: {section}: {twice} is there already")
            mine |= entries


# ---- C ---------------------------------------------------------------------------------------------------------------


def c_constant(enum, value):
    return f"{enum}_{re.sub('[^A-Za-z0-9]', '_', value)}".upper()


def c_member(schema, field):
    scalar = {"bool": "bool {};", "int": "uint32_t {};", "fd": "int {};", "size": "uint64_t {};",
              "string": "char *{};", "path": "char *{};"}
    if field.type in scalar:
        return scalar[field.type].format(field.name)
    if field.type == "enum":
        return f"enum {field.ref} {field.name};"
    if field.type == "object":
        return f"struct {schema.objects[field.ref].c_name} {field.name};"
    item = {"list of int": "uint32_t *", "list of string": "char **"}.get(field.type)
    item = item or f"struct {schema.objects[field.ref].c_name} *"
    return f"{item}{field.name};\n        size_t n_{field.name};"


def write_header(schema, out):
    out(f"/* {NOTICE} */\n#pragma once\n")
    out("#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n")
    out('#include "base/cleanup.h"\n#include "base/error.h"\n#include "schema/schema.h"\n')
    for name, values in schema.enums.items():
        out(f"enum {name} {{")
        for value in values:
            out(f"        {c_constant(name, value)},")
        out(f"        {name.upper()}_COUNT,\n}};")
        out(f"/** {name}_to_string() - its name, or NULL for a number that is no value. */")
        out(f"const char *{name}_to_string(enum {name} v);")
        out(f"/** {name}_from_string() - the value, or -EINVAL. */")
        out(f"int {name}_from_string(const char *text);\n")
    for obj in schema.objects.values():
        out(f"/* {obj.help} */\nstruct {obj.c_name} {{")
        if obj.base:
            out(f"        struct {obj.base.c_name} base;")
        for field in obj.own:
            limits = field.limits()
            out(f"        {c_member(schema, field)} /* {field.help}{' (' + limits + ')' if limits else ''} */")
        out("};\n")
        write_prototypes(schema, obj, out)
    out("/* The requests of lodged's API, in lodge.yaml's order. */\nenum schema_route_id {")
    for route in schema.routes:
        out(f"        ROUTE_{route.name.upper()}, /* {route.method} {route.path} */")
    out("        ROUTE_COUNT,\n};\nextern const struct schema_route schema_routes[ROUTE_COUNT];\n")
    out("/* X(ID, name) for each of them, so that none is left without a function. */")
    names = [f"X({r.name.upper()}, {r.name})" for r in schema.routes]
    out("#define SCHEMA_ROUTES(X) \\\n        " + " \\\n        ".join(names) + "\n")
    for command in schema.all_commands + schema.programs:
        objects = ", ".join(f"struct {o.c_name}" for o in command.objects)
        out(f"/* lodge {command.name}; objects: {objects} */\nextern const struct schema_command {command.c_name};")


def write_prototypes(schema, obj, out):
    c = obj.c_name
    out(f"extern const struct schema_object {c}_schema;")
    out(f"/** {c}_new() - one with all defaults; -ENOMEM. */\nint {c}_new(struct {c} **ret);")
    out(f"/** {c}_free() - with all that it holds; NULL is fine. */\nvoid {c}_free(struct {c} *c);")
    out(f"DEFINE_CLEANUP({c}, {c}_free);")
    out(f"/** {c}_parse() - from JSON, checked; see schema_parse(). */")
    out(f"int {c}_parse(const char *json, size_t len, struct {c} **ret, struct error *e);")
    out(f"/** {c}_check() - one filled by hand or by options; see schema_check(). */")
    out(f"int {c}_check(struct {c} *c, struct error *e);")
    out(f"/** {c}_format() - as JSON text; NULL when there is no memory. */\nchar *{c}_format(const struct {c} *c);")
    for field in obj.own:
        if field.type == "list":
            item = schema.objects[field.ref].c_name
            out(f"/** {c}_add_{field.name}() - append one with its defaults; -ENOMEM, -E2BIG. */")
            out(f"int {c}_add_{field.name}(struct {c} *c, struct {item} **ret);")
    out("")


def n_member(field):
    """Where a list's length lies: base.disks -> base.n_disks."""
    head, dot, last = field.member.rpartition(".")
    return f"{head}{dot}n_{last}"


def write_field(schema, obj, index, field, out):
    c = obj.c_name
    out("        {")
    out(f"                .name = {c_string(field.name)}, .kind = {field.kind}, .charset = {field.charset},")
    out(f"                .offset = offsetof(struct {c}, {field.member}),")
    if field.is_list:
        out(f"                .n_offset = offsetof(struct {c}, {n_member(field)}), .max_items = {field.max_items},")
    if field.required:
        out("                .required = true,")
    if field.count:
        out("                .count = true,")
    if field.optional_number:
        out("                .optional_number = true,")
    if field.max_bytes:
        out(f"                .max_bytes = {field.max_bytes},")
    if field.min or field.max or field.preset or field.multiple:
        out(f"                .min = INT64_C({field.min}), .max = INT64_C({field.max}), "
            f".multiple = INT64_C({field.multiple}), .preset = INT64_C({field.preset}),")
    if field.preset_text is not None:
        out(f"                .preset_text = {c_string(field.preset_text)},")
    if field.pattern:
        out(f"                .pattern = {c_string(field.pattern)},")
    if field.values:
        out(f"                .values = &{field.ref}_values,")
    if field.type in ("object", "list"):
        out(f"                .object = &{schema.objects[field.ref].c_name}_schema,")
    out(f"                .help = {c_string(field.help)},")
    out("        },")


def write_object(schema, obj, out):
    c = obj.c_name
    out(f"static const struct schema_field {c}_fields[] = {{")
    for index, field in enumerate(obj.fields):
        write_field(schema, obj, index, field, out)
    out("};")
    if obj.rules:
        rules = ", ".join(f"schema_rule_{r}" for r in obj.rules)
        out(f"static const schema_rule_fn {c}_rules[] = {{ {rules}, NULL }};")
    out(f"const struct schema_object {c}_schema = {{")
    out(f"        .name = {c_string(obj.name)}, .help = {c_string(obj.help)}, .size = sizeof(struct {c}),")
    out(f"        .fields = {c}_fields, .n_fields = {len(obj.fields)},")
    if obj.rules:
        out(f"        .rules = {c}_rules,")
    out("};\n")
    out(f"int {c}_new(struct {c} **ret) {{")
    out(f"        void *v;\n        int r = schema_new(&{c}_schema, &v);\n")
    out("        if (r >= 0)\n                *ret = v;\n        return r;\n}\n")
    out(f"void {c}_free(struct {c} *c) {{\n        schema_free(&{c}_schema, c);\n}}\n")
    out(f"int {c}_parse(const char *json, size_t len, struct {c} **ret, struct error *e) {{")
    out(f"        void *v;\n        int r = schema_parse(&{c}_schema, json, len, &v, e);\n")
    out("        if (r >= 0)\n                *ret = v;\n        return r;\n}\n")
    out(f"int {c}_check(struct {c} *c, struct error *e) {{\n        return schema_check(&{c}_schema, c, e);\n}}\n")
    out(f"char *{c}_format(const struct {c} *c) {{\n        return schema_format(&{c}_schema, c);\n}}\n")
    for index, field in enumerate(obj.fields):
        if field.type == "list" and field in obj.own:
            item = schema.objects[field.ref].c_name
            out(f"int {c}_add_{field.name}(struct {c} *c, struct {item} **ret) {{")
            out(f"        void *v;\n        int r = schema_list_add(&{c}_fields[{index}], c, &v);\n")
            out("        if (r >= 0)\n                *ret = v;\n        return r;\n}\n")


def write_options(schema, command, options, suffix, out):
    if not options:
        return
    out(f"static const struct schema_option {command.c_name}_{suffix}[] = {{")
    for o in options:
        def ref(field, obj=o.obj):
            return f"&{obj.c_name}_fields[{obj.fields.index(field)}]"
        out("        {")
        out(f"                .name = {c_string(o.name)}, .arg = {c_string(o.arg)}, "
            f".object = {command.objects.index(o.obj)},")
        out(f"                .field = {ref(o.field)},")
        item = schema.objects.get(o.field.ref)
        if o.head:
            out(f"                .head = {ref(o.head, item)},")
        if o.head_value:
            out(f"                .head_value = {ref(o.head_value, item)},")
        for flag in ("optional", "rest"):
            if getattr(o, flag):
                out(f"                .{flag} = true,")
        out("        },")
    out("};")


def write_templates(schema, out):
    for i, template in enumerate(schema.templates.values()):
        out(f"static const struct schema_template_field template_{i}_fields[] = {{")
        for field, value, why in template.fields:
            out(f"        {{ {c_string(field)}, {c_string(json.dumps(value))}, {c_string(why)} }},")
        out("};")
    out("const struct schema_template schema_templates[] = {")
    for i, template in enumerate(schema.templates.values()):
        out(f"        {{ {c_string(template.name)}, {c_string(template.summary)}, template_{i}_fields, {len(template.fields)} }},")
    out(f"}};\nconst unsigned int schema_n_templates = {len(schema.templates)};\n")


def write_source(schema, out):
    out(f"/* {NOTICE} */\n#include \"schema/lodge-schema.h\"\n")
    out("#include <assert.h>\n#include <stddef.h>\n#include <stdint.h>\n\n#include \"schema/rules.h\"\n")
    for name, values in schema.enums.items():
        out(f"static const char *const {name}_names[] = {{")
        for value in values:
            out(f"        [{c_constant(name, value)}] = {c_string(value)},")
        out("};")
        out(f"static_assert(ELEMENTSOF({name}_names) == {name.upper()}_COUNT, \"every value has a name\");")
        out(f"static_assert(sizeof(enum {name}) == sizeof(uint32_t), \"the tables hold enums as uint32_t\");")
        out(f"static const struct schema_enum {name}_values = {{ {name}_names, {name.upper()}_COUNT }};\n")
        out(f"const char *{name}_to_string(enum {name} v) {{")
        out(f"        return (unsigned int)v < {name.upper()}_COUNT ? {name}_names[v] : NULL;\n}}\n")
        out(f"int {name}_from_string(const char *text) {{")
        out(f"        return schema_enum_lookup(&{name}_values, text);\n}}\n")
    for obj in schema.objects.values():
        write_object(schema, obj, out)
    out("const struct schema_route schema_routes[ROUTE_COUNT] = {")
    for route in schema.routes:
        def ref(obj):
            return f"&{obj.c_name}_schema" if obj else "NULL"
        out(f"        [ROUTE_{route.name.upper()}] = {{")
        out(f"                .name = {c_string(route.name)}, .method = {c_string(route.method)}, "
            f".path = {c_string(route.path)}, .summary = {c_string(route.summary)},")
        out(f"                .role = SCHEMA_ROLE_{route.role.upper()}, .status = {route.status},")
        out(f"                .query = {ref(route.query)}, .body = {ref(route.body)}, .answer = {ref(route.answer)},")
        out(f"                .dry_answer = {ref(route.dry_answer)}, .raw = {c_string(route.raw)},")
        for flag in ("template", "patch", "operation", "dry_run", "if_match", "secret", "upload"):
            if getattr(route, flag):
                out(f"                .{flag} = true,")
        out("        },")
    out("};\n")
    write_templates(schema, out)
    for command in schema.all_commands + schema.programs:
        write_options(schema, command, command.arguments, "arguments", out)
        write_options(schema, command, command.options, "options", out)
        objects = ", ".join(f"&{o.c_name}_schema" for o in command.objects)
        out(f"const struct schema_command {command.c_name} = {{")
        out(f"        .name = {c_string(command.name)}, .summary = {c_string(command.summary)}, "
            f".objects = {{ {objects} }},")
        if command.short:
            out(f"        .alias = {c_string(command.short)},")
        if command.hidden:
            out("        .hidden = true,")
        for what in ("arguments", "options"):
            items = getattr(command, what)
            if items:
                out(f"        .{what} = {command.c_name}_{what}, .n_{what} = {len(items)},")
        out("};\n")
    out("const struct schema_command *const schema_commands[] = {")
    for command in schema.all_commands:
        out(f"        &{command.c_name},")
    out(f"}};\nconst unsigned int schema_n_commands = {len(schema.all_commands)};")


# ---- documents -------------------------------------------------------------------------------------------------------


def roff(text):
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")


def describe(field, option=True):
    limits = field.limits()
    if option and field.type == "bool" and not field.preset:
        limits = ""  # a switch is off until it is given
    if option and field.type == "enum":
        limits = limits.rpartition(", ")[2] if not field.required else ""  # the form shows the values
    return field.help + (f" ({limits})" if limits else "")


def roff_options(schema, command, out):
    for argument in command.arguments:
        out(f".TP\n\\fI{roff(argument.name)}\\fR\n{roff(describe(argument.field))}.")
    out(".nh\n.ad l")  # keys and values stay whole
    for option in command.options:
        # a line may break between the parts of an item
        arg = " \\fI" + roff(option.arg).replace("[,", "\\:[,") + "\\fR" if option.arg else ""
        out(f".TP\n\\fB\\-\\-{roff(option.name)}\\fR{arg}\n{roff(describe(option.field))}.")
        if option.sub:
            out(".RS")
            for field in [f for f in (option.head, option.head_value) if f] + option.sub:
                out(f".TP\n\\fB{roff(field.name)}\\fR\n{roff(describe(field))}.")
                for part in schema.objects[field.ref].fields if field.type == "object" else []:
                    out(f".TP\n\\fB{roff(field.name)}.{roff(part.name)}\\fR\n{roff(describe(part))}.")
            out(".RE")
    out(".hy\n.ad b")


def roff_object(schema, name, out):
    obj = schema.objects[name]
    for field in obj.fields:
        need_text = ", required" if field.required else ""
        kind = {"list": "list of objects"}.get(field.type, field.type)
        out(f".TP\n\\fB{roff(field.name)}\\fR (\\fI{kind}\\fR{need_text})\n{roff(describe(field, False))}.")
        if field.type in ("object", "list"):
            out(".RS")
            roff_object(schema, field.ref, out)
            out(".RE")


def roff_templates(schema, out):
    for template in schema.templates.values():
        out(f".TP\n\\fB{roff(template.name)}\\fR\n{roff(template.summary[0].upper() + template.summary[1:])}.\n.RS")
        for field, value, why in template.fields:
            out(f".TP\n\\fB{roff(field)}\\fR \\fI{roff(Template.text(value))}\\fR\n{roff(why[0].upper() + why[1:])}.")
        out(".RE")


def write_man(schema, template, out):
    commands = {c.name: c for c in schema.commands + schema.programs}
    with open(template, encoding="utf-8") as stream:
        for line in stream:
            match = re.fullmatch(r'\.\\" @(options|object|commands|templates) ?(.*)@\n', line)
            if not match:
                out(line.rstrip("\n"))
            elif match.group(1) == "templates":
                roff_templates(schema, out)
            elif match.group(1) == "object":
                roff_object(schema, match.group(2), out)
            elif match.group(1) == "commands":
                for command in schema.commands:
                    if command.name.startswith(match.group(2)):
                        short = f" Short: \\fBlodge {roff(command.short)}\\fR." if command.short else ""
                        out(f".TP\n\\fB{roff(command.usage())}\\fR\n{roff(command.summary)}.{short}")
            else:
                roff_options(schema, commands[match.group(2)], out)


def write_markdown(schema, out):
    out(f"<!-- {NOTICE} -->\n# Commands\n")
    for command in schema.commands:
        out(f"## `{command.usage()}`\n\n{command.summary}\n\n| option | meaning | range |\n|---|---|---|")
        for o in command.arguments + command.options:
            form = o.name if o in command.arguments else f"--{o.name}" + (f" {o.arg}" if o.arg else "")
            out(f"| `{form.replace('|', chr(92) + '|')}` | {o.field.help} | {o.field.limits()} |")
        out("")
    out("# Templates\n")
    for template in schema.templates.values():
        out(f"## {template.name}: {template.summary}\n\n| field | value | why |\n|---|---|---|")
        for field, value, why in template.fields:
            out(f"| `{field}` | `{Template.text(value)}` | {why} |")
        out("")
    out("# Objects\n")
    for obj in schema.objects.values():
        out(f"## {obj.name}: {obj.help}\n\n| field | type | meaning | range |\n|---|---|---|---|")
        for f in obj.fields:
            kind = f.type + (f" {f.ref}" if f.ref else "") + (", required" if f.required else "")
            out(f"| `{f.name}` | {kind} | {f.help} | {f.limits()} |")
        out("")


# ---- completions -----------------------------------------------------------------------------------------------------


def completes_files(option):
    return option.field.type == "path" or (option.head is not None and option.head.type == "path")


def choices(option):
    if option.field.values or option.templates:
        return option.field.values or option.templates
    if option.head is not None and option.head.values:
        return [v + "=" if v == "tap" else v for v in option.head.values]
    return []


def named(schema):
    """Every command by each of its names."""
    return [pair for command in schema.commands for pair in command.named()]


def completed(command):
    """What its arguments are, for `lodge complete`; the first that has a list is offered everywhere."""
    return next((a.complete for a in command.arguments if a.complete), None)


def groups(schema):
    """(group, number of its words, words that may follow), outer groups first: ("image bitmap", 2, ["list", "add"])."""
    found = {}
    for command in schema.commands:
        words = command.name.split()
        for n in range(1, len(words)):
            found.setdefault((n, " ".join(words[:n])), {})[words[n]] = True
    return [(group, n, list(found[n, group])) for n, group in sorted(found)]


def write_bash(schema, out):
    out(f"# {NOTICE}\n_lodge() {{")
    out("        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]}")
    out("        COMPREPLY=()")
    for group, n, _ in groups(schema):
        out(f'        [[ $COMP_CWORD -gt {n + 1} && $cmd == "{group}" ]] && cmd="$cmd ${{COMP_WORDS[{n + 1}]}}"')
    firsts = sorted({n.split()[0] for n, _ in named(schema)})
    out("        if ((COMP_CWORD == 1)); then")
    out(f'                mapfile -t COMPREPLY < <(compgen -W "{" ".join(firsts)}" -- "$cur")\n                return')
    for group, n, words in groups(schema):
        out(f'        elif ((COMP_CWORD == {n + 1})) && [[ $cmd == "{group}" ]]; then')
        out(f'                mapfile -t COMPREPLY < <(compgen -W "{" ".join(words)}" -- "$cur")\n                return')
    out("        fi\n        case \"$cmd $prev\" in")
    for name, command in named(schema):
        for o in command.options:
            if choices(o):
                out(f'        "{name} --{o.name}")')
                out(f'                mapfile -t COMPREPLY < <(compgen -W "{" ".join(choices(o))}" -- "$cur")'
                    "\n                return ;;")
            elif completes_files(o):
                out(f'        "{name} --{o.name}")')
                out('                mapfile -t COMPREPLY < <(compgen -f -- "$cur")\n                return ;;')
    out("        esac\n        case $cmd in")
    for name, command in named(schema):
        words = " ".join(f"--{o.name}" for o in command.options)
        if completed(command):
            out(f'        "{name}")\n                if [[ $cur != -* ]]; then')
            out(f'                        mapfile -t COMPREPLY < <(compgen -W "$(lodge complete {completed(command)} 2>/dev/null)" '
                '-- "$cur")\n                        return\n                fi')
            out(f'                mapfile -t COMPREPLY < <(compgen -W "{words} --help" -- "$cur") ;;')
        else:
            out(f'        "{name}") mapfile -t COMPREPLY < <(compgen -W "{words} --help" -- "$cur") ;;')
    out("        esac\n}\ncomplete -o bashdefault -F _lodge lodge")


def zsh_text(text):
    return re.sub(r"([\[\]:'])", r"", text)


def write_zsh(schema, out):
    out(f"#compdef lodge\n# {NOTICE}\n_lodge() {{\n        local cmd=$words[2]")
    for group, n, _ in groups(schema):
        out(f'        [[ $cmd == "{group}" ]] && (( CURRENT > {n + 2} )) && cmd="$cmd $words[{n + 2}]"')
    firsts = sorted({n.split()[0] for n, _ in named(schema)})
    out(f"        if (( CURRENT == 2 )); then\n                compadd {' '.join(firsts)}\n                return")
    for group, n, words in groups(schema):
        out(f'        elif (( CURRENT == {n + 2} )) && [[ $cmd == "{group}" ]]; then')
        out(f"                compadd {' '.join(words)}\n                return")
    out("        fi\n        case $cmd in")
    for name, command in named(schema):
        out(f"        ('{name}')\n                _arguments \\")
        for o in command.options:
            action = f"({' '.join(choices(o))})" if choices(o) else "_files" if completes_files(o) else ""
            star = "*" if o.field.is_list else ""
            value = f":{zsh_text(o.name)}:{action}" if o.arg else ""
            out(f"                        '{star}--{o.name}[{zsh_text(o.field.help)}]{value}' \\")
        files = f'compadd -- ${{(f)"$(lodge complete {completed(command)} 2>/dev/null)"}}' if completed(command) else "_files"
        out(f"                        '*:argument:{{{files}}}'\n                ;;")
    out("        esac\n}\n_lodge \"$@\"")


def write_fish(schema, out):
    out(f"# {NOTICE}")
    # The command's words come first: what follows may be any word, as a machine that is called list.
    out("function __lodge_is\n        set -l words (commandline -opc)\n        test (count $words) -gt (count $argv)"
        "\n        and test \"$words[2..(math (count $argv) + 1)]\" = \"$argv\"\nend")
    for name, command in named(schema):
        words = name.split()
        out(f"complete -c lodge -n '__fish_is_nth_token 1' -f -a {words[0]}")
        for n in range(1, len(words)):
            inside = "".join(f"; and __fish_seen_subcommand_from {w}" for w in words[:n])
            text = f" -d {fish_text(command.summary)}" if n + 1 == len(words) else ""
            out(f"complete -c lodge -n '__fish_is_nth_token {n + 1}{inside}' -f -a {words[n]}{text}")
        seen = f"__lodge_is {name}"
        if completed(command):
            out(f"complete -c lodge -n '{seen}' -f -a '(lodge complete {completed(command)} 2>/dev/null)'")
        for o in command.options:
            value = f" -x -a '{' '.join(choices(o))}'" if choices(o) else " -r -F" if completes_files(o) else \
                " -x" if o.arg else ""
            out(f"complete -c lodge -n '{seen}' -l {o.name}{value} -d {fish_text(o.field.help)}")


def fish_text(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


WRITERS = {"header": write_header, "source": write_source, "markdown": write_markdown, "bash": write_bash,
           "zsh": write_zsh, "fish": write_fish}


def main(argv):
    if len(argv) != 4:
        sys.exit(__doc__)
    lines = []
    what, _, template = argv[2].partition(":")
    try:
        schema = Schema(argv[1])
        if what == "man":
            write_man(schema, template, lines.append)
        elif what in ("openapi", "openapi-c"):
            (openapi.write_json if what == "openapi" else openapi.write_c)(schema, template, lines.append)
        else:
            WRITERS[what](schema, lines.append)
    except Mistake as mistake:
        sys.exit(f"{argv[1]}: {mistake}")
    with open(argv[3], "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv)
