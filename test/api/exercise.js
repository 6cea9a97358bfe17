#!/usr/bin/env node
// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exercise: send lodged what its OpenAPI document allows, and what it does not, and hold every answer against the document
 *
 * usage: node exercise.js SOCKET openapi.json [SEED [REQUESTS]]        (its packages lie where $NODE_PATH says)
 *
 * Theory of operation. fast-check drives: for each operation a property, "whatever is asked, the answer is as documented", with a fixed seed, so
 * that a failure comes again and is shrunk. json-schema-faker makes values that fit the document's schemas; some are then bent (a key
 * lost, invented, or given any value), some replaced by anything at all, bodies by bytes that are no JSON. Names of machines, operations and
 * files come from a small dictionary now and then, so that requests meet each other. ajv judges:
 *
 *   - the status is one that the operation documents, and no 5xx but 503, 504 and 507 whose id is known to be no fault
 *   - the body fits the schema of that status and has its media type; the request's id is there, and is ours if we gave a plain one
 *   - what the document forbids was refused: a request that does not fit never succeeds
 *   - every operation that can succeed here did so at least once: else this would test refusals only
 */
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const fc = require('fast-check');
const jsf = require('json-schema-faker');
const Ajv = require('ajv/dist/2020').default;

const [socketPath, file, seedText = '1', requestsText = '4000'] = process.argv.slice(2);
const document = JSON.parse(fs.readFileSync(file, 'utf8'));
const seed = Number(seedText), requests = Number(requestsText);

const NAMES = ['m0', 'm1', 'm2', 'm3', 'm4', 'm5'];
const DICTIONARY = {
        name: NAMES, target: NAMES, kernel: ['/nonexistent/kernel'], project: ['default', 'default', 'other'], after: ['m2', '3'],
        label: ['a', 'a=b'], source: NAMES, url: ['http://127.0.0.1:9/nobody', 'https://127.0.0.1:9/nobody'], status: ['stopped', 'running', 'failed'], prefix: ['m'], template: ['tiny', 'database', 'windows-11', 'none'], wait: [0, 1], id: [],
};
/* A machine has to run for these, a WebSocket to be asked for, a certificate to be shown (test/system/remote.sh), a client to have been let in, an operation to go on, an image or a volume to be there, or the daemon to be the system's: not here. */
const NEVER = ['machine_exec', 'machine_console', 'machine_shell', 'event_stream', 'machine_file_read', 'machine_file_write', 'machine_reboot', 'machine_pause', 'machine_resume', 'machine_reset', 'operation_cancel', 'image_show', 'image_delete', 'volume_delete',
               'network_define', 'network_show', 'network_delete', 'client_enrol', 'client_show', 'client_change',
               'client_delete', 'machine_stop'];
/* Reasons for 503, 504 and 507 that this test itself brings about. */
const EXPLAINED = ['daemon-starting', 'too-many-operations'];
const PLAIN = /^[A-Za-z0-9._-]{1,39}$/;

const agent = new http.Agent({ maxSockets: 16 });
const counts = {}, succeeded = {}, ids = {};

const ajv = new Ajv({ strict: false, allErrors: false, formats: { int64: true } });
ajv.addSchema(document, 'doc');
const compiled = new Map();
function fits(pointer, value) { // a pointer into the document; the first fault, or undefined
        let judge = compiled.get(pointer);
        if (!judge) {
                judge = ajv.compile({ $ref: `doc#${pointer}` });
                compiled.set(pointer, judge);
        }
        return judge(value) ? undefined : ajv.errorsText(judge.errors);
}

const escaped = (part) => part.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D');
const pointer = (...parts) => parts.map((part) => '/' + escaped(String(part))).join('');
function follow(value, at) {
        while (value.$ref) {
                at = value.$ref.slice(1);
                value = at.split('/').slice(1).reduce((v, part) => v[part.replaceAll('~1', '/')], document);
        }
        return [value, at];
}

// Every reference in its place: no object holds itself.
function whole(value) {
        if (Array.isArray(value))
                return value.map(whole);
        if (value === null || typeof value !== 'object')
                return value;
        if (value.$ref)
                return whole(follow(value)[0]);
        return Object.fromEntries(Object.entries(value).filter(([key]) => key !== 'default').map(([key, item]) => [key, whole(item)]));
}

function generator(number) { // mulberry32: json-schema-faker wants one
        let state = number >>> 0;
        return () => {
                state = (state + 0x6d2b79f5) >>> 0;
                let t = Math.imul(state ^ (state >>> 15), 1 | state);
                t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
                return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
        };
}

function fake(schema, number) {
        const random = generator(number);
        jsf.option({ random, optionalsProbability: random() ** 3, maxItems: 3, maxLength: 40, useDefaultValue: false,
                     fillProperties: false, reuseProperties: false });
        return jsf.generate(schema);
}

// Words of the dictionary in place of some that were made up, and a machine that could be.
function familiar(value, number) {
        const random = generator(number);
        const visit = (v) => {
                for (const key of Object.keys(v)) {
                        if (DICTIONARY[key]?.length && typeof v[key] !== 'object' && (key === 'url' || random() < 0.7)) // servers of images: here only
                                v[key] = DICTIONARY[key][Math.floor(random() * DICTIONARY[key].length)];
                        else if (v[key] !== null && typeof v[key] === 'object')
                                visit(v[key]);
                }
        };
        visit(value);
        return value;
}

// One place of a value, bent.
function bend(value, [where, how, anything]) {
        const what = structuredClone(anything);
        const places = [];
        const visit = (v) => {
                for (const key of Object.keys(v)) {
                        places.push([v, key]);
                        if (v[key] !== null && typeof v[key] === 'object')
                                visit(v[key]);
                }
        };
        if (value === null || typeof value !== 'object')
                return what;
        visit(value);
        if (places.length === 0 || how === 'add') {
                if (Array.isArray(value))
                        value.push(what);
                else
                        value['x' + where % 7] = what;
                return value;
        }
        const [parent, key] = places[where % places.length];
        if (how === 'remove' && !Array.isArray(parent))
                delete parent[key];
        else
                parent[key] = what;
        return value;
}

const anything = fc.oneof(fc.jsonValue(), fc.unicodeJsonValue(), fc.fullUnicodeString(), fc.constantFrom(
        -1, 0, 1e15, 2 ** 53, -(2 ** 63), 1e300, 0.5, '', '\u0000', 'a\u0000b', '\u001b[31m', '../../etc/passwd', '%s%n', 'x'.repeat(70000),
        '9223372036854775808', '512M', '1.5G', true, null, [], {}, [[]], { a: { b: {} } }));
const number = fc.integer({ min: 0, max: 0x7fffffff });
const change = fc.tuple(number, fc.constantFrom('remove', 'replace', 'replace', 'add'), anything);
const percent = (least) => fc.integer({ min: 0, max: 99 }).map((n) => n < least);

function parameter(raw) {
        const [spec] = follow(raw);
        const schema = whole(spec.schema);
        const words = spec.in === 'header' ? [] : spec.in === 'path' && spec.name === 'name' ? [...NAMES, 'default'] : DICTIONARY[spec.name] ?? [];
        const values = [number.map((n) => fake(schema, n)), number.map((n) => fake(schema, n))];
        if (words === DICTIONARY.id)
                values.push(number.map((n) => words[n % (words.length || 1)] ?? 'none'));
        else if (words.length)
                values.push(fc.constantFrom(...words), fc.constantFrom(...words), fc.constantFrom(...words));
        if (spec.name !== 'wait') // a minute is long
                values.push(spec.in === 'header' ? fc.string({ maxLength: 300 }) : anything);
        else
                values.splice(0, 2);
        const value = fc.oneof(...values).map((v) => typeof v === 'string' ? v : JSON.stringify(v));
        return fc.record({ spec: fc.constant(spec), value, used: spec.required ? fc.constant(true) : percent(25) });
}

function body(operation) {
        if (!operation.requestBody)
                return fc.constant(undefined);
        const media = operation.requestBody.content;
        if (media['application/octet-stream'])
                return fc.record({ kind: fc.constant('application/octet-stream'), name: fc.constant('application/octet-stream'),
                                   text: fc.oneof(fc.constant(Buffer.alloc(4096)), fc.uint8Array({ minLength: 1, maxLength: 2000 }).map((a) => Buffer.from(a))) });
        const kind = fc.constantFrom(...Object.keys(media));
        const [name, schema] = [Object.keys(media)[0], whole(Object.values(media)[0].schema)];
        const good = fc.tuple(number, number).map(([n, m]) => {
                const value = familiar(fake(schema, n), m);
                if (schema.properties.kernel && m % 4) { // mostly one that has what it needs, and little more
                        const keys = Object.keys(value).filter((key, i) => m % 4 > 1 && (m >> i) % 8 === 0);
                        return { name: NAMES[m % NAMES.length], kernel: DICTIONARY.kernel[0],
                                 ...Object.fromEntries(keys.filter((k) => k !== 'name').map((k) => [k, value[k]])), exec: undefined };
                }
                return value;
        }).map((value) => JSON.parse(JSON.stringify(value)));
        const bent = fc.tuple(good, fc.array(change, { minLength: 1, maxLength: 3 })).map(([v, list]) => list.reduce(bend, v));
        const text = fc.oneof({ weight: 5, arbitrary: good.map(JSON.stringify) }, { weight: 4, arbitrary: bent.map((v) => JSON.stringify(v)) },
                              { weight: 1, arbitrary: anything.map((v) => JSON.stringify(v)) },
                              { weight: 1, arbitrary: fc.tuple(good, number).map(([v, n]) => JSON.stringify(v).slice(0, n % 200)) },
                              { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((a) => Buffer.from(a)) });
        return fc.record({ kind, text, name: fc.constant(name) });
}

function send(method, path, headers, text) {
        return new Promise((resolve, reject) => {
                const request = http.request({ socketPath, method, path, headers, agent, timeout: 20000 }, (response) => {
                        const chunks = [];
                        response.on('data', (chunk) => chunks.push(chunk));
                        response.on('error', reject);
                        response.on('end', () => resolve({ status: response.statusCode, headers: response.headers,
                                                           text: Buffer.concat(chunks).toString('utf8') }));
                });
                request.on('timeout', () => request.destroy(new Error('no answer within 20 s')));
                request.on('error', reject);
                request.end(text);
        });
}

let sent = 0;
async function define(name) {
        const answer = await send('POST', '/v1/machines', { 'Content-Type': 'application/json' },
                                  JSON.stringify({ name, kernel: DICTIONARY.kernel[0] }));
        if (answer.status === 201)
                succeeded.machine_define = (succeeded.machine_define ?? 0) + 1;
        else if (answer.status !== 409)
                throw new Error(`machine ${name} cannot be defined: ${answer.status} ${answer.text}`);
}

const tried = (f, otherwise) => {
        try {
                return f();
        } catch {
                return otherwise;
        }
};

// Is this text a value of the parameter? A query's texts stand for numbers and booleans, too.
const judges = new Map();
function parameterFits(spec, text) {
        if (!judges.has(spec))
                judges.set(spec, ajv.compile(whole(spec.schema)));
        const forms = [text];
        if (/^[0-9]{1,16}$/.test(text))
                forms.push(Number(text));
        if (['true', '1', ''].includes(text))
                forms.push(true);
        if (['false', '0'].includes(text))
                forms.push(false);
        return forms.some((form) => judges.get(spec)(form));
}

async function ask(route, method, operation, asked) {
        const headers = {};
        let path = route, query = [], sound = true;

        for (const { spec, value, used } of asked.parameters) {
                if (!used)
                        continue;
                if (spec.in === 'path')
                        path = path.replace(`{${spec.name}}`, encodeURIComponent(tried(() => (encodeURIComponent(value), value), 'lone')));
                else if (spec.in === 'query')
                        query.push(`${spec.name}=${encodeURIComponent(tried(() => (encodeURIComponent(value), value), 'lone'))}`);
                else
                        headers[spec.name] = value.replace(/[^ -~]/g, '?');
                if (spec.in === 'query' && !parameterFits(spec, tried(() => (encodeURIComponent(value), value), 'lone')))
                        sound = false;
        }
        if (asked.body && asked.text !== undefined && (asked.text.length > 0 || operation.requestBody.required)) { // an empty one is none
                headers['Content-Type'] = asked.body.kind;
                const value = tried(() => JSON.parse(asked.text.toString('utf8')));
                if (asked.body.kind !== 'application/octet-stream' && (value === undefined || (typeof asked.text === 'string' && tried(() => encodeURIComponent(asked.text)) === undefined) ||
                    fits(pointer('paths', route, method, 'requestBody', 'content', asked.body.kind, 'schema'), value)))
                        sound = false;
        }
        if (query.length)
                path += '?' + query.join('&');

        if (++sent % 10 === 0) // what was deleted is there again
                await define(NAMES[sent / 10 % NAMES.length]);
        const answer = await send(method.toUpperCase(), path, headers, asked.text).catch((e) => {
                if (e.message === 'socket hang up' && path.length > 60000)
                        return undefined; // a request's head has at most 64 KiB
                throw e;
        });
        if (!answer) {
                counts.cut = (counts.cut ?? 0) + 1;
                return;
        }
        const what = `${method.toUpperCase()} ${path.slice(0, 300)} ${JSON.stringify(headers).slice(0, 500)}\n${String(asked.text ?? '').slice(0, 1500)}\n` +
                     `=> ${answer.status} ${answer.text.slice(0, 1500)}\n`;
        const fail = (why) => { throw new Error(`${operation.operationId}: ${why}\n${what}`); };
        const content = tried(() => JSON.parse(answer.text));
        const id = content?.error?.id;

        counts[answer.status] = (counts[answer.status] ?? 0) + 1;
        if (id)
                ids[`${answer.status} ${id}`] = (ids[`${answer.status} ${id}`] ?? 0) + 1;
        if (answer.status >= 500 && !([503, 504, 507].includes(answer.status) && EXPLAINED.includes(id)))
                fail('a 5xx');
        const status = operation.responses[answer.status] ? String(answer.status) : 'default';
        if (status === 'default' && answer.status < 400)
                fail(`status ${answer.status} is not documented`);
        const [response, at] = follow(operation.responses[status], pointer('paths', route, method, 'responses', status));
        const [kind] = Object.keys(response.content ?? {});
        if (kind) {
                if (!answer.headers['content-type']?.startsWith(kind))
                        fail(`its type is ${answer.headers['content-type']}`);
                if (kind === 'application/json' && content === undefined)
                        fail('it is no JSON');
                const fault = response.content[kind].schema && fits(`${at}/content/${kind.replaceAll('/', '~1')}/schema`, content);
                if (fault)
                        fail(`the answer does not fit: ${fault}`);
        }
        if (response.headers?.ETag && !/^"[0-9]+"$/.test(answer.headers.etag ?? '"0"'))
                fail(`ETag ${answer.headers.etag}`);
        const given = headers['X-Request-Id'];
        if (!answer.headers['x-request-id'] || (PLAIN.test(given ?? '') && answer.headers['x-request-id'] !== given))
                fail(`X-Request-Id ${answer.headers['x-request-id']}`);
        if (answer.status < 300) {
                succeeded[operation.operationId] = (succeeded[operation.operationId] ?? 0) + 1;
                if (!sound)
                        fail('the document forbids the request, and it was done');
                if (content?.id && DICTIONARY.id.length < 500)
                        DICTIONARY.id.push(content.id);
        }
}

async function main() {
        const operations = [];
        for (const [route, item] of Object.entries(document.paths))
                for (const [method, operation] of Object.entries(item))
                        if (!operation.responses['101'])
                                operations.push([route, method, operation]);
        const runs = Math.ceil(requests / operations.length);
        for (const name of NAMES)
                await define(name);

        const results = await Promise.allSettled(operations.map(([route, method, operation], i) => {
                const asked = fc.record({ parameters: fc.tuple(...operation.parameters.map(parameter)), body: body(operation),
                                          empty: percent(operation.requestBody?.required ? 0 : 10) });
                return fc.assert(fc.asyncProperty(asked, async (r) => {
                        await ask(route, method, operation, { ...r, text: r.empty ? undefined : r.body?.text });
                }), { seed: seed + i, numRuns: runs, errorWithCause: true, interruptAfterTimeLimit: 50000 });
        }));

        let failed = 0;
        for (const result of results.filter((r) => r.status === 'rejected')) {
                failed++;
                console.log((result.reason.cause ?? result.reason).stack.slice(0, 4000).replace(/^/gm, '# '));
        }
        const total = Object.values(counts).reduce((a, b) => a + b, 0);
        console.log(`# ${total} requests to ${operations.length} operations, seed ${seed}; by status: ` +
                    Object.entries(counts).map(([status, n]) => `${status}: ${n}`).join(', '));
        console.log(`# by error: ${Object.entries(ids).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name}: ${n}`).join(', ')}`);
        for (const [, , operation] of operations)
                if (!succeeded[operation.operationId] && !NEVER.includes(operation.operationId)) {
                        failed++;
                        console.log(`# ${operation.operationId} never succeeded`);
                }
        agent.destroy();
        process.exit(failed || total < requests / 2 ? 1 : 0);
}

main().catch((e) => {
        console.log(`# ${e.stack}`);
        process.exit(1);
});
