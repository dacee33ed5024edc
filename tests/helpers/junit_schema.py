"""What is wrong with JUnit XML, by the schema that Jenkins checks it with.

source  junit-10.xsd of the xunit plugin of Jenkins (jenkinsci/xunit-plugin at 031e285ef3b6,
        src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd), restated for the elements
        that the plugin needs
"""

from typing import NamedTuple
from xml.etree import ElementTree


class Rule(NamedTuple):
    """What an element may hold: required and other attributes, child elements, and text."""

    required: set[str]
    others: set[str]
    children: set[str]
    text: bool


OUTCOME = Rule(set(), {"type", "message"}, set(), True)
RULES = {
    "testsuites": Rule(
        set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}, False
    ),
    "testsuite": Rule(
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        False,
    ),
    "properties": Rule(set(), set(), {"property"}, False),
    "property": Rule({"name", "value"}, set(), set(), False),
    "testcase": Rule(
        {"name"},
        {"time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
        False,
    ),
    "skipped": OUTCOME,
    "error": OUTCOME,
    "failure": OUTCOME,
    "system-out": Rule(set(), set(), set(), True),
    "system-err": Rule(set(), set(), set(), True),
}
COUNTED = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}


def problems(data):
    """One text for each problem of the XML in `data`; an empty list if it is valid.

    Beyond the schema: the counts of a test suite are those of its elements.
    """
    root = ElementTree.fromstring(data)
    if root.tag != "testsuites":
        return [f"the root is {root.tag}"]
    found = []
    for element in root.iter():
        found += _problems_of_element(element)
    for suite in root.iter("testsuite"):
        for attribute, tag in COUNTED.items():
            n = len(list(suite.iter(tag)))
            if suite.get(attribute, str(n)) != str(n):
                found.append(f"{attribute} is {suite.get(attribute)}; there are {n}")
    return found


def _problems_of_element(element):
    rule = RULES.get(element.tag)
    if rule is None:
        return [f"unknown element {element.tag}"]
    found = [f"{element.tag} lacks {name}" for name in rule.required - set(element.attrib)]
    unknown = set(element.attrib) - rule.required - rule.others
    found += [f"{element.tag} has {name}" for name in unknown]
    found += [f"{element.tag} in it" for child in element if child.tag not in rule.children]
    if (element.text or "").strip() and not rule.text:
        found.append(f"{element.tag} has text")
    return found
