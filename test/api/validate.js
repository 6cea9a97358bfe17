#!/usr/bin/env node
// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * validate: is it an OpenAPI 3.1 document? Two validators that are not ours judge it, and its patterns are compiled
 *
 * usage: node validate.js openapi.json        (its packages lie where $NODE_PATH says)
 */
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const faults = [];

function walk(value, at, visit) {
        if (value === null || typeof value !== 'object')
                return;
        visit(value, at);
        for (const [key, item] of Object.entries(value))
                walk(item, `${at}/${key}`, visit);
}

async function main(file) {
        const text = fs.readFileSync(file, 'utf8');
        const document = JSON.parse(text);

        // The official schema of OpenAPI 3.1, and references.
        const { Validator } = await import(require.resolve('@seriousme/openapi-schema-validator'));
        const validator = new Validator();
        const verdict = await validator.validate(structuredClone(document));
        if (!verdict.valid)
                faults.push(`openapi-schema-validator: ${JSON.stringify(verdict.errors)}`);
        if (validator.version !== '3.1')
                faults.push(`openapi-schema-validator takes it for version ${validator.version}`);

        // What the schema cannot say: paths that are the same, parameters that are not in the path, examples that do not fit ...
        const { lintDocument, makeDocumentFromString, createConfig, BaseResolver } = require('@redocly/openapi-core');
        const config = await createConfig({ extends: ['recommended'], rules: { 'no-server-example.com': 'off' } });
        const source = makeDocumentFromString(text, path.resolve(file));
        const problems = await lintDocument({ document: source, config: config.styleguide ?? config, externalRefResolver: new BaseResolver() });
        for (const problem of problems)
                faults.push(`redocly: ${problem.severity}: ${problem.ruleId}: ${problem.message} at ${problem.location[0]?.pointer}`);

        // Patterns are POSIX extended expressions in the schema, and ECMA-262 with /u here; an id and every reference is met once.
        const ids = new Set();
        walk(document, '#', (value, at) => {
                if (typeof value.pattern === 'string')
                        try {
                                new RegExp(value.pattern, 'u');
                        } catch (e) {
                                faults.push(`${at}: ${e.message}`);
                        }
                if (value.operationId && ids.has(value.operationId))
                        faults.push(`${at}: operationId ${value.operationId} is there twice`);
                if (value.operationId)
                        ids.add(value.operationId);
        });
        console.log(`# ${Object.keys(document.paths).length} paths, ${ids.size} operations, ` +
                    `${Object.keys(document.components.schemas).length} objects`);
        for (const fault of faults)
                console.log(`# ${fault}`);
        process.exit(faults.length || ids.size === 0 ? 1 : 0);
}

main(process.argv[2]).catch((e) => {
        console.log(`# ${e.stack}`);
        process.exit(1);
});
