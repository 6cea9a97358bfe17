# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of lodged's API as an OpenAPI 3.1 document.

Theory of operation. Each object of the schema becomes up to three components, because it has up to three forms:

  output  what an answer holds: sizes are integers, and whatever always has a value is required
  input   what a body may hold: sizes may be texts like "512M", only what has to be there is required
  patch   a JSON merge patch (RFC 7396) of it: nothing is required, null removes

An object with one form has the object's name in CamelCase; else the input's name ends in Input, the patch's in Patch.
What `extends` another is written out, since additionalProperties: false and allOf do not go together.

The schema counts a string's bytes and JSON Schema its characters: maxLength is exact for ASCII and generous for the rest.
The patterns are POSIX extended expressions that are ECMA-262 ones, too; a test compiles them.
"""
import hashlib
import json
import re

OUTPUT, INPUT, PATCH, QUERY = "output", "input", "patch", "query"
SUFFIX = {OUTPUT: "", INPUT: "Input", PATCH: "Patch"}
CHARSETS = {"SCHEMA_CHARSET_TEXT": r"^[^\u0000-\u001f\u007f]*$", "SCHEMA_CHARSET_PRINTABLE": r"^[ -~]*$",
            "SCHEMA_CHARSET_ANY": r"^[^\u0000]*$"}
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)? *([KMGT](iB|B)?)?$"
DESCRIPTION = """Lodge's daemon, `lodged`, on its unix socket, and with `--listen` over the network, by TLS 1.3.

Names, ranges and defaults are those of the command line: all come from one schema. Unknown keys are refused, in bodies and in queries.
A string's `maxLength` is counted in bytes of UTF-8. A body may have up to 1 MiB, and 16 nested objects and lists.

Errors are `{"error": {"id", "message", "fix", "code", "request"}}`; `id` is stable, `fix` says what to do. Every answer names its request in
`X-Request-Id`: the log has it, too; a client may choose it.

What takes time answers 202 with an operation: `GET /v1/operations/{id}?wait=60` waits for its next change.
A `POST` with an `Idempotency-Key` that succeeded is answered the same way again, for a day, and done once.
Each request needs a role, `x-lodge-role`; an operator may what a viewer may, and an admin everything. A client of the network may be held to one
project: it may look at images, pools and networks, and does not see what other projects have."""
ERRORS = {
    400: "Malformed: the body, the query or the path is not as this document says.",
    401: "The certificate of this connection is not known here, or there is none.",
    403: "The caller's role, or the project that it is held to, does not allow it.",
    404: "What the path or the project names is not there.",
    409: "It contradicts what is there: a name that is taken, a state that does not fit, work that goes on.",
    412: "If-Match names another generation: it has changed meanwhile.",
    413: "Too large.",
    429: "Too many wrong guesses.",
    422: "Well-formed, but this daemon or this host cannot do it.",
    503: "Not now: try again in a moment.",
    504: "What had to answer did not, in time.",
    507: "The host has no space left for it.",
}
PROBLEM = {"$ref": "#/components/responses/Problem"}


class Document:
    def __init__(self, schema, version):
        self.schema, self.version, self.forms = schema, version, {}
        for route in schema.routes:
            if route.body:
                self.use(route.body, PATCH if route.patch else INPUT)
            for obj in (route.answer, route.dry_answer):
                if obj:
                    self.use(obj, OUTPUT)
        self.use(schema.objects["error_answer"], OUTPUT)

    def use(self, obj, form):
        """Note that @obj is used in @form, and what it holds."""
        if form in self.forms.setdefault(obj.name, set()):
            return
        self.forms[obj.name].add(form)
        for field in obj.fields:
            if field.type in ("object", "list"):
                # A merge patch replaces lists as a whole.
                self.use(self.schema.objects[field.ref], INPUT if form == PATCH and field.is_list else form)

    def component(self, name, form):
        camel = "".join(word.capitalize() for word in re.split("[^a-zA-Z0-9]", name))
        return camel if len(self.forms[name]) == 1 else camel + SUFFIX[form]

    def ref(self, name, form):
        return {"$ref": f"#/components/schemas/{self.component(name, form)}"}

    @staticmethod
    def string(field):
        out = {"type": "string", "maxLength": field.max_bytes, "pattern": field.pattern or CHARSETS[field.charset]}
        if field.required:
            out["minLength"] = 1
        return out

    @staticmethod
    def number(field):
        out = {"type": "integer", "minimum": field.min, "maximum": field.max}
        if field.multiple:
            out["multipleOf"] = field.multiple
        if field.type == "size":
            out["format"] = "int64"
        return out

    def value(self, field, form):
        """A value, or an item of a list of them."""
        if field.type == "bool":
            return {"type": "boolean"}
        if field.type in ("int", "fd", "list of int"):
            return self.number(field)
        if field.type == "size":
            number = self.number(field)
            if form == OUTPUT or field.count:
                return number
            text = {"type": "string", "pattern": SIZE_PATTERN, "maxLength": 32, "examples": ["512M"],
                    "description": "bytes, or with a unit of 1024: K, M, G, T"}
            return {"oneOf": [number, text]}
        if field.type == "enum":
            return {"type": "string", "enum": list(field.values)}
        if field.type == "object":
            return self.ref(field.ref, form)
        if field.type == "list":
            return self.ref(field.ref, INPUT if form == PATCH else form)
        return self.string(field)

    @staticmethod
    def preset(field):
        if field.default is None or field.is_list:
            return None
        return field.default if field.type in ("bool", "enum", "string") else field.preset

    def nullable(self, out):
        if "$ref" in out:
            return {"anyOf": [out, {"type": "null"}]}
        if "oneOf" in out:
            return {"oneOf": out["oneOf"] + [{"type": "null"}]}
        if "enum" in out:
            out["enum"] = out["enum"] + [None]
        out["type"] = [out["type"], "null"]
        return out

    def field(self, field, form):
        out = self.value(field, form)
        if field.is_list:
            out = {"type": "array", "maxItems": field.max_items, "items": out}
            if field.required:
                out["minItems"] = 1
        if form == PATCH:
            out = self.nullable(out)
        out["description"] = field.help
        if form in (INPUT, QUERY) and self.preset(field) is not None:
            out["default"] = self.preset(field)
        return out

    @staticmethod
    def always(field):
        """Is it in every answer? See schema/format.c: texts that are not there and numbers that are unset are left out."""
        if field.type in ("string", "path"):
            return field.required or field.preset_text is not None
        return not field.optional_number

    def object(self, obj, form):
        required = [f.name for f in obj.fields if (form == OUTPUT and self.always(f)) or (form == INPUT and f.required)]
        out = {"type": "object", "description": obj.help, "additionalProperties": False,
               "properties": {f.name: self.field(f, form) for f in obj.fields}}
        if required:
            out["required"] = required
        return out

    # ---- requests ----------------------------------------------------------------------------------------------------

    def path_parameter(self, route, name):
        """{name} behind /machines is the name of a machine."""
        folder = re.search(r"/(\w+)/\{" + name + r"\}", route.path)
        obj = self.schema.objects.get(folder.group(1).removesuffix("s")) if folder else None
        fields = {f.name: f for f in obj.fields} if obj else {}
        schema = {"type": "string", "minLength": 1, "maxLength": 512}
        if folder and folder.group(1) == "templates":
            return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(self.schema.templates)},
                    "description": fields[name].help}
        if name in fields and fields[name].type == "string":
            schema = self.string(fields[name]) | {"minLength": 1}
        return {"name": name, "in": "path", "required": True, "schema": schema,
                "description": fields[name].help if name in fields else name}

    def query_parameter(self, field):
        schema = self.field(field, QUERY)
        return {"name": field.name, "in": "query", "required": field.required, "description": schema.pop("description"),
                "schema": schema}

    def parameters(self, route):
        out = [self.path_parameter(route, name) for name in route.parameters]
        for field in route.query.fields if route.query else []:
            if field.name != "dry_run" or route.dry_run:
                out.append(self.query_parameter(field))
        out.append({"$ref": "#/components/parameters/RequestId"})
        if route.if_match:
            out.append({"$ref": "#/components/parameters/IfMatch"})
        if route.method == "POST" and not route.secret:
            out.append({"$ref": "#/components/parameters/IdempotencyKey"})
        return out

    def answer(self, obj, description):
        headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
        if any(f.name == "generation" for f in obj.fields):
            headers["ETag"] = {"$ref": "#/components/headers/ETag"}
        return {"description": description, "headers": headers,
                "content": {"application/json": {"schema": self.ref(obj.name, OUTPUT)}}}

    def responses(self, route):
        out = {}
        if route.raw == "websocket":
            out["101"] = {"description": "A WebSocket (RFC 6455)."}
        elif route.raw:
            out[str(route.status)] = {"description": "The answer.", "content": {route.raw: {}}}
        elif route.answer:
            text = "An operation that goes on." if route.operation else f"{route.answer.help[0].upper()}{route.answer.help[1:]}."
            out[str(route.status)] = self.answer(route.answer, text)
        if route.dry_answer and route.status != 200:
            out["200"] = self.answer(route.dry_answer, "With dry_run: it would work, and this is what it would work on.")
        codes = [c for c in ERRORS if (c != 404 or route.parameters or route.query or route.body) and
                 (c != 413 or route.body or route.upload) and (c != 412 or route.if_match) and (c != 429 or route.name == "client_enrol") and
                 (c != 401 or route.role != "none" or route.name == "client_enrol")]
        out |= {str(c): {"$ref": f"#/components/responses/Problem{c}"} for c in codes}
        out["default"] = PROBLEM
        return dict(sorted(out.items()))

    def operation(self, route):
        text = f"{route.summary[0].upper()}{route.summary[1:]}."
        text += " Anybody may." if route.role == "none" else f" Needs the role {route.role}."
        out = {"operationId": route.name, "summary": route.summary, "tags": [self.tag(route)], "description": text,
               "x-lodge-role": route.role, "parameters": self.parameters(route)}
        if route.template:
            out["description"] += " The body's template fills in what the body leaves out."
        if route.body:
            media = {"schema": self.ref(route.body.name, PATCH if route.patch else INPUT)}
            kinds = ["application/merge-patch+json", "application/json"] if route.patch else ["application/json"]
            needed = route.patch or any(f.required for f in route.body.fields)
            out["requestBody"] = {"required": needed, "content": {kind: media for kind in kinds}}
        if route.upload:
            out["description"] += " The body is taken while it comes and needs a Content-Length; with Expect: 100-continue, what cannot be is refused before it is sent."
            out["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
        out["responses"] = self.responses(route)
        return out

    @staticmethod
    def tag(route):
        parts = route.path.split("/")
        return parts[2].partition(".")[0] if len(parts) > 2 else "daemon"

    def shared(self):
        identifier = {"type": "string", "minLength": 1, "maxLength": 39, "pattern": "^[A-Za-z0-9._-]+$"}
        problem = {"headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
                   "content": {"application/json": {"schema": self.ref("error_answer", OUTPUT)}}}
        again = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
        responses = {f"Problem{c}": {"description": text} | problem for c, text in ERRORS.items()}
        responses["Problem503"] = responses["Problem503"] | {"headers": problem["headers"] | again}
        responses["Problem"] = {"description": "Any other error."} | problem
        return {
            "parameters": {
                "RequestId": {"name": "X-Request-Id", "in": "header",
                              "schema": {"type": "string", "maxLength": 39, "pattern": "^[A-Za-z0-9._-]*$"},
                              "description": "Name of the request; without it, one is made. What is no plain word is ignored."},
                "IfMatch": {"name": "If-Match", "in": "header",
                            "schema": {"type": "string", "pattern": r'^(\*|"[1-9][0-9]{0,17}")$'},
                            "description": "ETag of what was seen: nothing happens when it has changed since."},
                "IdempotencyKey": {"name": "Idempotency-Key", "in": "header",
                                   "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                                   "description": "The same key with the same request is answered the same way for a day, "
                                                  "and done once; with another request it is refused with 409."}},
            "headers": {
                "RequestId": {"description": "Name of the request.", "schema": identifier},
                "ETag": {"description": "Its generation, for If-Match.",
                         "schema": {"type": "string", "pattern": '^"[0-9]+"$'}}},
            "responses": responses,
            "securitySchemes": {
                "certificate": {"type": "mutualTLS",
                                "description": "Over the network (TLS 1.3): a certificate that POST /v1/clients has let in; it may have signed itself. "
                                               "On the unix socket the kernel says who asks, and nothing has to be sent."}}}

    def build(self):
        paths = {}
        for route in self.schema.routes:
            paths.setdefault(route.path, {})[route.method.lower()] = self.operation(route)
        tags = list(dict.fromkeys(self.tag(route) for route in self.schema.routes))
        components = {self.component(name, form): self.object(self.schema.objects[name], form)
                      for name, forms in self.forms.items() for form in forms}
        return {
            "openapi": "3.1.0",
            "info": {"title": "lodged", "version": self.version, "description": DESCRIPTION,
                     "license": {"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"}},
            "servers": [{"url": "http://localhost", "description": "curl --unix-socket /run/lodge/lodged.sock http://localhost/v1"}],
            "security": [{}, {"certificate": []}],
            "tags": [{"name": tag, "description": f"Requests about: {tag}."} for tag in tags],
            "paths": paths,
            "components": {"schemas": dict(sorted(components.items()))} | self.shared()}


def text(schema, version):
    return json.dumps(Document(schema, version).build(), indent=1, ensure_ascii=True)


def write_json(schema, version, out):
    out(text(schema, version))


def write_c(schema, version, out):
    """The same text as a C array, for lodged to serve."""
    content = text(schema, version) + "\n"
    tag = hashlib.sha256(content.encode()).hexdigest()[:16]
    out("/* Made by schema/openapi.py from schema/lodge.yaml. Do not edit. */\n#include \"schema/schema.h\"\n")
    out(f"const char schema_openapi_etag[] = \"\\\"{tag}\\\"\";\nconst char schema_openapi[] =")
    for line in content.splitlines():
        escaped = line.replace("\\", "\\\\").replace('"', '\\"')
        out(f"        \"{escaped}\\n\"")
    out(f"        ;\nconst size_t schema_openapi_size = sizeof(schema_openapi) - 1;")
