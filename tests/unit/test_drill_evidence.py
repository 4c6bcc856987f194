"""What a drill leaves on paper: the time line, the picture, the page, JUnit, and two drills beside each other."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from test_drill_verdict import CALLS, DOLLARS, GOOD

from bursar.cli.drill import drill, write_evidence
from bursar.drill.agents import Attempt, Outcome
from bursar.drill.compare import Change, NotADrillError, compare
from bursar.drill.picture import document, figure
from bursar.drill.report import as_json
from bursar.drill.timeline import MOMENTS_MAX, thinned, timeline
from bursar.drill.verdict import BilledCall, Look, Struck, Verdict, judge

SVG = "{http://www.w3.org/2000/svg}"


def look(ms: int, used: int, captured: int | None, held: int | None, refusals: int = 0) -> Look:
    return Look(used, (captured or 0) + (held or 0), 1_000_000 + ms * 1_000, used, captured, held, 3, refusals)


SEEN = replace(
    GOOD,
    began_at_us=1_000_000,
    looks=(
        look(0, 0, 0, 0),
        look(50, 500_000_000, 0, 900_000_000),
        look(2_000, 980_000_000, 980_000_000, 0, refusals=2),
    ),
    struck=(Struck("kill_worker", 1_500_000, 1_900_000),),
    attempts=(Attempt(0, 0, 1_700_000, 5, Outcome.HUNG_UP), *GOOD.attempts),
)
LEAKED = replace(GOOD, till=(*GOOD.till, BilledCall(120, 500_000_000)), looks=(look(9, 1_480_000_000, None, None),))


def good() -> Verdict:
    return judge(DOLLARS, SEEN)


def leaked() -> Verdict:
    return judge(DOLLARS, LEAKED)


def test_a_time_line_has_amounts_in_the_unit_of_the_cap_and_times_since_the_beginning() -> None:
    line = timeline(DOLLARS, SEEN)
    assert (line.cap, line.unit) == (1_000_000_000, "usd")
    assert [(moment.ms, moment.till, moment.held) for moment in line.moments] == [
        (0, 0, 0),
        (50, 500_000_000, 900_000_000),
        (2_000, 980_000_000, 0),
    ]
    assert [(mark.name, mark.from_ms, mark.to_ms) for mark in line.blows] == [("kill_worker", 500, 900)]
    assert [(mark.name, mark.from_ms) for mark in line.troubles] == [("hung up", 700)]
    assert timeline(CALLS, SEEN).unit == "calls"


def test_a_long_storm_is_thinned_out_and_keeps_its_ends() -> None:
    kept = thinned(tuple(range(100_000)), MOMENTS_MAX)
    assert (len(kept), kept[0], kept[-1]) == (MOMENTS_MAX, 0, 99_999)
    assert list(kept) == sorted(set(kept))
    assert thinned((1, 2), MOMENTS_MAX) == (1, 2)


def paths(svg: str) -> dict[str, str]:
    root = ElementTree.fromstring(svg)
    return {item.attrib["class"]: item.attrib["d"] for item in root.iter(f"{SVG}path")}


def test_the_picture_shows_the_till_against_the_cap_and_what_befell_the_storm() -> None:
    svg = document([timeline(DOLLARS, SEEN)])
    drawn = paths(svg)
    assert {"till", "cap", "booked", "held", "flight", "refused", "trouble"} <= drawn.keys()
    assert "over" not in drawn
    # The cap is the highest thing here; the till ends just below it, and the plot below that.
    cap, end = float(drawn["cap"].split()[1].split("H")[0]), float(drawn["till"].rpartition("V")[2])
    assert 46 < cap < end < 60
    assert "kill worker" in svg
    assert "cap $1.00" in svg


def test_the_picture_of_a_leak_marks_what_is_over_and_shows_no_books_where_none_were_seen() -> None:
    drawn = paths(document([timeline(DOLLARS, LEAKED)]))
    assert "over" in drawn
    assert not {"booked", "held"} & drawn.keys()
    cap, end = float(drawn["cap"].split()[1].split("H")[0]), float(drawn["till"].rpartition("V")[2])
    assert end < cap


def test_a_storm_that_was_never_looked_at_has_a_picture_too() -> None:
    for measured in (replace(SEEN, looks=()), replace(SEEN, looks=SEEN.looks[:1])):
        assert "cap $1.00" in figure(timeline(DOLLARS, measured))


class Tags(HTMLParser):
    """Everything in a page that names something elsewhere, and what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def written(verdicts: list[Verdict], folder: Path) -> dict[str, str]:
    files: dict[str, Path | None] = {name: folder / f"drill.{name}" for name in ("json", "junit", "html", "svg")}
    write_evidence(verdicts, {"seed": 7, "faults": "<none>", "only": None}, files)
    return {name: file.read_text() for name, file in files.items() if file is not None}


def test_the_page_stands_alone_and_says_everything(tmp_path: Path) -> None:
    page = written([good(), leaked()], tmp_path)["html"]
    tags = Tags()
    tags.feed(page)
    assert tags.links == ["data:,"]
    assert "script" not in tags.tags
    assert tags.tags.count("svg") == 2
    for said in (
        "FAIL",
        "PASS",
        "passed by $0.48",
        "&lt;none&gt;",
        "seed",
        "aiohttp",
        "processors",
        "width=device-width",
    ):
        assert said in page, said


def test_junit_has_a_case_for_every_check_and_says_what_failed(tmp_path: Path) -> None:
    suite = ElementTree.fromstring(written([good(), leaked()], tmp_path)["junit"].encode())[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["time"]) == ("18", "3", "6")
    failures = {case.attrib["name"]: found for case in suite if (found := case.find("failure")) is not None}
    assert failures.keys() == {"the cap holds", "the books equal the bill", "the bill is covered at every look"}
    assert failures["the cap holds"].attrib["message"] == "passed by $0.48"
    assert "over the cap: $0.48, 1 calls" in str(failures["the cap holds"].text)


def test_a_file_in_a_folder_that_is_missing_is_refused_before_the_storm(tmp_path: Path) -> None:
    for option in ("--html", "--junit", "--svg", "--json"):
        done = CliRunner().invoke(drill, [option, str(tmp_path / "missing" / "file")])
        assert done.exit_code == 2
        assert "there is no folder" in done.output


def test_the_storms_and_the_faults_can_be_listed() -> None:
    done = CliRunner().invoke(drill, ["--list"])
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()[1:5]] == ["calls", "dollars", "trouble", "long"]
    assert "kill_worker" in done.output


# ---- two drills beside each other -----------------------------------------------------------------------------------


def of(*verdicts: Verdict) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(as_json(verdicts, {})))
    return document


def with_figures(**changes: int | None) -> dict[str, Any]:
    document = of(good())
    document["scenarios"][0]["figures"] |= changes
    return document


def test_two_drills_that_say_the_same_differ_in_nothing() -> None:
    assert compare(of(good()), of(good())) == ()


def test_a_cap_that_leaks_now_is_worse_and_the_way_back_is_better() -> None:
    worse = {change.what: change for change in compare(of(good()), of(leaked()))}
    assert worse["the cap holds"] == Change("dollars on sqlite", "the cap holds", "ok", "failed", is_worse=True)
    assert (worse["over the cap"].after, worse["over the cap"].is_worse) == ("$0.48", True)
    assert not any(change.is_worse for change in compare(of(leaked()), of(good())))


@pytest.mark.parametrize(
    ("figures", "what", "is_worse"),
    [
        ({"used_before_refusal": 970_000_000}, "usable before the first refusal", False),
        ({"used_before_refusal": 900_000_000}, "usable before the first refusal", True),
        ({"used_before_refusal": None}, "usable before the first refusal", True),
        ({"refusal_us_median": 4_000}, "refusal, median", False),
        ({"refusal_us_median": 15_000}, "refusal, median", True),
        ({"refusal_us_median": None}, "refusal, median", False),
    ],
)
def test_shares_and_latencies_may_wander_a_little(figures: dict[str, int | None], what: str, is_worse: bool) -> None:
    (change,) = compare(of(good()), with_figures(**figures))
    assert (change.what, change.is_worse) == (what, is_worse)


def test_a_storm_that_was_left_out_is_worse_and_a_new_one_is_not() -> None:
    (left_out,) = compare(of(good()), of())
    assert left_out.is_worse
    assert [change.is_worse for change in compare(of(), of(good()))] == [False]
    assert [change.is_worse for change in compare(of(), of(leaked()))] == [True]


def test_in_trouble_the_share_before_the_first_refusal_is_chance() -> None:
    documents = [of(good()), with_figures(used_before_refusal=0)]
    for each in documents:
        each["scenarios"][0]["scenario"]["hang_up_percent"] = 5
    assert compare(*documents) == ()


@pytest.mark.parametrize("wrong", [[], {}, {"format": 2}, {"format": 1}, {"format": 1, "scenarios": [{"name": "x"}]}])
def test_a_file_that_no_drill_wrote_is_refused(wrong: Any) -> None:
    with pytest.raises(NotADrillError):
        compare(of(good()), wrong)


def test_the_command_says_what_is_worse_by_its_status(tmp_path: Path) -> None:
    def run(before: str, after: str, *options: str) -> tuple[int, str]:
        done = CliRunner().invoke(drill, ["compare", str(tmp_path / before), str(tmp_path / after), *options])
        return done.exit_code, done.output

    for name, measured in {"good.json": SEEN, "leaked.json": LEAKED}.items():
        write_evidence([judge(DOLLARS, measured)], {}, {"json": tmp_path / name})
    (tmp_path / "odd.json").write_text("[")
    (tmp_path / "other.json").write_text("{}")
    assert run("good.json", "good.json") == (0, "nothing changed\n")
    status, said = run("good.json", "leaked.json")
    assert status == 1
    assert "WORSE  dollars on sqlite  the cap holds" in said
    status, said = run("leaked.json", "good.json", "--json")
    assert status == 0
    assert not any(change["is_worse"] for change in json.loads(said))
    for odd in ("odd.json", "other.json"):
        status, said = run("good.json", odd)
        assert status == 2
        assert "bursar drill --json FILE" in said
