"""A report for programs: as JSON, and as JUnit XML for a CI system."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from torchstone.conformance.result import BAD, Report, Result
from torchstone.conformance.words import covered, explain

if TYPE_CHECKING:
    from torchstone.conformance.relations import Relation


def as_dict(report: Report | None, relations: Sequence[Relation] = ()) -> dict[str, Any]:
    """The report and the relations, as plain data; JSON calls the relations "properties"."""
    data = report.as_dict() if report else {}
    return data | ({"properties": [vars(r) for r in relations]} if relations else {})


def as_json(data: Mapping[str, Any]) -> str:
    """Valid JSON: what is not finite becomes a string, since JSON has no word for it."""
    return json.dumps(_finite(data), indent=1, ensure_ascii=False)


def _finite(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {str(k): _finite(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(v) for v in x]
    if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))):
        return str(x)
    return x if x is None or isinstance(x, bool | int | float | str) else str(x)


def junit(report: Report | None, relations: Sequence[Relation] = ()) -> str:
    """JUnit XML: one testcase for each case and precision; warnings and accepted differences are system-out."""
    suites = ElementTree.Element("testsuites")
    if report is not None:
        suite = ElementTree.SubElement(suites, "testsuite", name=_xml(f"{report.target} against {report.objective}"))
        place = _xml(f"{report.target}.{report.objective}")
        fine = covered(report)
        for r in report.results:
            _tell(ElementTree.SubElement(suite, "testcase", classname=place, name=case_name(r)), report, r, fine)
        _counted(suite)
    if relations:
        suite = ElementTree.SubElement(suites, "testsuite", name="properties")
        for relation in relations:
            item = ElementTree.SubElement(suite, "testcase", classname="properties", name=_xml(relation.name))
            _tell_relation(item, relation)
        _counted(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _tell(item: ElementTree.Element, report: Report, r: Result, fine: dict[int, str]) -> None:
    text = f"{r.comment}\n{r.detail}"
    if r.status == "skip":
        ElementTree.SubElement(item, "skipped", message=_xml(r.detail))
    elif r.status in BAD and r.case_id in fine:
        ElementTree.SubElement(item, "system-out").text = _xml(f"{fine[r.case_id]}: {text}")
    elif r.status in BAD:
        tag = "failure" if r.status == "fail" else "error"
        problem = ElementTree.SubElement(item, tag, message=_xml(r.detail or r.status), type=r.status)
        problem.text = _xml(explain(report, r))
    elif r.status == "warn":
        ElementTree.SubElement(item, "system-out").text = _xml(f"warning: {text}")


def _tell_relation(item: ElementTree.Element, r: Relation) -> None:
    if r.status == "fail":
        ElementTree.SubElement(item, "failure", message=_xml(r.detail), type="property").text = _xml(r.detail)
    elif r.status == "skip":
        ElementTree.SubElement(item, "skipped", message=_xml(r.detail))
    elif r.status == "warn":
        ElementTree.SubElement(item, "system-out").text = _xml(f"warning: {r.detail}")


def case_name(result: Result) -> str:
    """Such as ``7-nan_under_mask-float64``."""
    return f"{result.case_id}-{'+'.join(result.flags) or 'plain'}-{result.precision}"


def _counted(suite: ElementTree.Element) -> None:
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))


def _xml(text: str) -> str:
    """Without the control characters that XML forbids."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
