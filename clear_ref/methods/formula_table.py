"""The table of methods and meanings, read from the heads of the method files and from their variants."""

import re

KEY = re.compile(r"(paper|original|released(?:@[\d-]+)?)  ?(\s*\S.*)$")
SOURCE = re.compile(r"\s*\[([^\[\]]*[a-zA-Z]{2}[^\[\]]*)\]$")
FIELDS = re.compile(r"(needs|positions|resolved|deviations|at teacher|evidence)\b")


def meanings(module) -> dict[str, tuple[str, str]]:
    """{variant: (formula, source)} of a method file's head; the lines of a formula are joined, sources by semicolons."""
    found, name = {}, None
    for line in module.__doc__.splitlines()[2:]:
        key = KEY.match(line)
        if key:
            name, line = key.groups()
            found[name] = ([], [])
        elif FIELDS.match(line):
            break
        source = SOURCE.search(line)
        if source:
            found[name][1].append(source.group(1))
            line = line[: source.start()]
        if name and line.strip():
            found[name][0].append(re.sub(r"\s+", " ", line.strip()))
    return {
        name: (joined(formula), "; ".join(sources)) for name, (formula, sources) in found.items()
    }


def joined(lines) -> str:
    """One line of a formula's lines: each begins a statement, after a semicolon, a further summand or case (+ - = |), or goes on
    where the one before ends with , : or ;."""
    text = ""
    for line in lines:
        text += (
            line
            if not text
            else f" {line}"
            if line[0] in "+-=|" or text[-1] in ",:;"
            else f"; {line}"
        )
    return text


def evidence(module) -> dict[str, str]:
    """{variant: how we know} of a method file's head; what names no variant is true of all of them."""
    text = re.search(r"^evidence\s+((?:.*\n?)(?:\s+.*\n?)*)", module.__doc__, re.M).group(1)
    general, *special = [re.sub(r"\s+", " ", part.strip()) for part in text.split(";")]
    found = {name: general for name in module.VARIANTS}
    for part in special:
        names, what = part.split(": ", 1)
        for name in names.split(", "):
            for own in found:
                if own == name or own.startswith(f"{name}@") and own not in names.split(", "):
                    found[own] += f"; {what}"
    return found


def reads(chosen) -> str:
    """What a variant reads with its default options: each batch, its row sets, and whether the teacher's too."""
    needs = chosen.needs_of(chosen.options())
    n_random = sum(name.startswith("random") for name in needs)
    parts = []
    for name, need in needs.items():
        if name.startswith("random"):
            if name != "random1":
                continue
            name = f"random1-{n_random}"
        parts.append(
            f"{name}: {'hidden states, ' if need.hidden else ''}{' + '.join(need.rows)}{', teacher' * need.teacher}"
        )
    return "; ".join(parts)


def markdown(methods) -> str:
    """One row a method and meaning; what is divided by: step, the counts of the whole optimiser step, or batch, each batch's own
    and then the mean of the batches."""
    lines = [
        "| method | meaning | loss | source | rows read | divided by | how we know |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, module in methods.items():
        formulas, known = meanings(module), evidence(module)
        for name, chosen in module.VARIANTS.items():
            formula, source = formulas[name]
            formula = "`" + formula.replace("|", "\\|") + "`"
            cells = (
                f"[`{method}`](clear_ref/methods/{method}.py)",
                f"`{name}`",
                formula,
                source,
                reads(chosen),
                "batch" if chosen.by_batch else "step",
                known[name],
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
