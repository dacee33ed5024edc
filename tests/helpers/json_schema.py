"""A validator for the JSON Schema keywords that clear_ref/oracle/suite/schema.json uses."""

import re

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
WITHOUT_EFFECT = {"$schema", "$defs", "title", "description"}


def problems(value, schema, root=None, where="$"):
    """What is wrong with a value, one text for each problem; an empty list if it is valid.

    root    the whole schema, for references; None: `schema` itself
    raises  NotImplementedError for a keyword that this validator does not know
    """
    root = schema if root is None else root
    found = []
    for keyword, wanted in schema.items():
        if keyword in CHECKS:
            if not CHECKS[keyword](value, wanted):
                found.append(f"{where} is {value!r:.60}; expected {keyword} {wanted}")
        elif keyword in ("properties", "additionalProperties"):
            found += _problems_of_properties(value, keyword, schema, root, where)
        elif keyword == "items":
            for i, item in enumerate(value if isinstance(value, list) else []):
                found += problems(item, wanted, root, f"{where}[{i}]")
        elif keyword == "$ref":
            found += problems(value, _referenced(root, wanted), root, where)
        elif keyword == "anyOf":
            attempts = [problems(value, choice, root, where) for choice in wanted]
            found += min(attempts, key=len)
        elif keyword not in WITHOUT_EFFECT:
            raise NotImplementedError(f"schema keyword {keyword!r}")
    return found


def _referenced(root, reference):
    target = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    return target


def _problems_of_properties(value, keyword, schema, root, where):
    if not isinstance(value, dict):
        return []
    known = schema.get("properties", {})
    found = []
    for name, item in value.items():
        inner = None
        if keyword == "properties":
            inner = known.get(name)
        elif name not in known:
            inner = schema["additionalProperties"]
        if inner is False:
            found.append(f"{where} has an unknown key {name!r}")
        elif isinstance(inner, dict):
            found += problems(item, inner, root, f"{where}.{name}")
    return found


def _has_type(value, wanted):
    names = [wanted] if isinstance(wanted, str) else wanted
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES[name]) for name in names)


def _has_required(value, names):
    return not isinstance(value, dict) or all(name in value for name in names)


def _matches(value, pattern):
    return not isinstance(value, str) or re.search(pattern, value) is not None


def _is_large_enough(value, least):
    return not isinstance(value, (int, float)) or value >= least


CHECKS = {
    "type": _has_type,
    "required": _has_required,
    "pattern": _matches,
    "minimum": _is_large_enough,
    "enum": lambda value, choices: value in choices,
    "const": lambda value, wanted: value == wanted,
}
