"""The verdict as JUnit XML, which every CI server shows: a test case per storm and check; pure."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bursar.drill.report import facts
from bursar.drill.verdict import Verdict


def junit(verdicts: Sequence[Verdict]) -> str:
    """Give one test suite with a case for every check of every storm."""
    suite = Element("testsuite", name="bursar drill")
    for verdict in verdicts:
        scenario = verdict.scenario
        for check in verdict.checks:
            case = SubElement(suite, "testcase", classname=f"drill.{scenario.store}.{scenario.name}", name=check.name)
            # The storm is one; its time stands at its first check, so that the sum over the cases is right.
            case.set("time", str(verdict.figures.seconds if check is verdict.checks[0] else 0))
            if not check.ok:
                failure = SubElement(case, "failure", message=check.found)
                failure.text = "\n".join(f"{name}: {value}" for name, value in facts(verdict))
            SubElement(case, "system-out").text = f"{check.found} (seed {scenario.seed})"
    suite.set("tests", str(sum(len(verdict.checks) for verdict in verdicts)))
    suite.set("failures", str(sum(not check.ok for verdict in verdicts for check in verdict.checks)))
    suite.set("errors", "0")
    suite.set("time", str(sum(verdict.figures.seconds for verdict in verdicts)))
    suites = Element("testsuites")
    suites.append(suite)
    indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(suites, encoding="unicode")}\n'
