// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * template: a definition that names a template, as it is sent
 *
 * The command line's object has a value in each field, and the daemon must know which of them a person has said: so only these are sent. That is what differs from
 * the default, and what was among the options even if it is the default.
 */
#pragma once

#include "cli/ask.h"

/** template_said() - what was said of the command's machine_definition, as JSON. Return: 0, or -ENOMEM with @e. */
int template_said(const struct ask *a, char **ret_text, struct error *e);

/** template_explain() - which values come from the template, and why; @said: from template_said(). */
void template_explain(const char *name, const char *said, FILE *f);
