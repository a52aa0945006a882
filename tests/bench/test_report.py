"""The statistics of the benchmark, its page and its goals, with invented figures."""

import os
import sys
from pathlib import Path

import pytest
from support.children import Cannot, Child, Failed

from ._comparisons import COMPARISONS
from ._contestants import CONTESTANTS, NATIVE, OURS, PEER, Contestant
from ._goals import GOALS, GOALS_OF_ALL, goal_lines
from ._load import percentile
from ._processes import Placement, Processes, Server
from ._report import SECTIONS, cell, comparison_row, formatted, page, row
from ._results import Figure, Results
from ._run import run
from ._summary import BEGIN, END, LINES, summary, update
from ._workloads import WORKLOADS, Workload

PERFORMANCE = Path(__file__).parents[2] / "docs" / "explanation" / "performance.md"
ALL = [figure for workload in WORKLOADS for figure in workload.figures]
TIME = next(figure for figure in ALL if figure.label == "reply 8 MB, one core")
RATE = next(figure for figure in ALL if figure.label == "requests in flight, many tasks")


def measured(figure: Figure, **rounds: list[float]) -> Results:
    """Return results with one figure of the contestants `ours`, `peer` and `native`, round by round."""
    results = Results()
    names = {"ours": OURS, "peer": PEER, "native": NATIVE}
    for name, values in rounds.items():
        for round_, value in enumerate(values, start=1):
            results.add(figure.workload, names[name], round_, {figure.metric: value})
    return results


def page_row(results: Results, figure: Figure) -> list[str]:
    """Return the cells of the figure's first row in the page."""
    lines = page(results, ALL, {}).splitlines()
    return next(line for line in lines if line.startswith(f"| {figure.label} |")).strip("| ").split(" | ")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0000512, "time", "51.2 µs"),
        (0.00512, "time", "5.12 ms"),
        (0.999, "time", "999 ms"),
        (1.5, "time", "1.50 s"),
        (123_456, "rate", "123,000/s"),
        (1_800_000, "memory", "1.8 MB"),
        (0.42, "share", "42%"),
    ],
)
def test_a_figure_is_shown_with_its_unit_in_three_digits(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds_and_not_the_ratio_of_the_medians() -> None:
    results = measured(TIME, ours=[1, 2, 30], native=[1, 4, 10])
    assert results.ratio(TIME, OURS, NATIVE) == 1
    assert results.median(TIME, OURS) == 2


def test_a_round_that_one_contestant_lacks_has_no_ratio() -> None:
    results = measured(TIME, ours=[1, 2, 3], native=[1])
    assert results.ratio(TIME, OURS, NATIVE) == 1
    assert results.ratio(TIME, OURS, PEER) is None


def test_times_and_rates_are_both_shown_as_times_better_than_the_peer() -> None:
    assert page_row(measured(TIME, ours=[2], peer=[6]), TIME)[3] == "3.00×"  # noqa: RUF001 - the sign in the page
    assert page_row(measured(RATE, ours=[6], peer=[2]), RATE)[3] == "3.00×"  # noqa: RUF001 - the sign in the page


def test_a_contestant_that_failed_has_a_reason_instead_of_a_figure() -> None:
    results = measured(TIME, ours=[2], peer=[1], native=[1])
    results.fail(TIME.workload, PEER, "cannot: no messages over 1 MiB")
    results.fail(TIME.workload, NATIVE, "failed: no answer")
    assert (cell(results, TIME, PEER), cell(results, TIME, NATIVE)) == ("cannot", "failed")
    assert results.median(TIME, PEER) is None
    assert page_row(results, TIME)[3:] == ["cannot", "–"]  # noqa: RUF001 - the sign in the page
    assert "- peer, reply 8 MB, one core: cannot: no messages over 1 MiB\n" in page(results, ALL, {})


def test_the_table_has_a_column_for_every_contestant() -> None:
    assert len(row(measured(TIME, ours=[2]), TIME).removeprefix(TIME.label).split()) == len(CONTESTANTS) + 1  # "2.00 s"


def test_a_page_leaves_out_workloads_that_were_not_measured() -> None:
    text = page(measured(TIME, ours=[2]), ALL, {})
    assert "| reply 8 MB, one core |" in text
    assert "| reply 80 MB, one core |" not in text
    assert "## Large messages, one core" in text
    assert "## Many connections" not in text


def test_a_page_has_the_python_version_the_facts_and_the_plot_but_no_goals() -> None:
    text = page(measured(TIME, ours=[2]), ALL, {"Cores": "2"}, title="Python 3.11", plot="plot.svg")
    assert text.startswith("# Python 3.11\n\n- Cores: 2\n\n![The main figures of all contestants](plot.svg)\n")
    assert "goal" not in text.lower()


def test_each_row_of_a_section_has_a_figure_that_its_contestants_are_measured_in() -> None:
    figures = {(figure.workload, figure.metric) for figure in ALL}
    contestants = {workload.name: workload.contestants for workload in WORKLOADS}
    for section in SECTIONS:
        for line in section.rows:
            assert (line.workload, line.metric) in figures
            compared = ([section.peer] if section.peer else []) + ([section.baseline] if section.native else [])
            assert {line.subject, *compared} <= {*contestants[line.workload]}


def test_each_figure_of_ours_is_in_a_section_unless_it_only_explains_others() -> None:
    rows = {(line.workload, line.metric) for section in SECTIONS for line in section.rows}
    assert {figure.metric for figure in ALL if (figure.workload, figure.metric) not in rows} == {"busy", "p50", "rate"}


def test_each_goal_has_a_figure_that_its_contestants_are_measured_in() -> None:
    figures = {(figure.workload, figure.metric) for figure in ALL}
    contestants = {workload.name: workload.contestants for workload in WORKLOADS}
    for goal in (goal for goals in (*GOALS.values(), GOALS_OF_ALL) for goal in goals):
        assert (goal.workload, goal.metric) in figures
        others = ([goal.other] if goal.peer else []) + ([NATIVE] if goal.native else [])
        assert {goal.contestant, *others} <= {*contestants[goal.workload]}


def test_goals_depend_on_the_python_version_and_are_met_or_missed() -> None:
    figure = next(figure for figure in ALL if figure.label == "round trip, one core")
    results = measured(figure, ours=[1.0], peer=[2.5], native=[0.6])
    older, newer = goal_lines(results, ALL, {}, "3.11"), goal_lines(results, ALL, {}, "3.13")
    assert [line.split()[-1] for line in older] == [
        "missed",
        "met",
        "missed",
        "missed",
    ]  # two of trio, then asyncio and engine
    assert "2.50×  ≥ 3.1 times the peer" in older[0]  # noqa: RUF001 - the sign in the table
    assert [line.split()[-1] for line in newer] == ["met"]
    assert goal_lines(results, ALL, {}, "3.12") == []


def test_goals_of_comparisons_hold_for_every_python_version() -> None:
    comparison = COMPARISONS[0]
    figures = {"ours": 0.002, "other": 0.4, "ratio": 0.005}
    (met,) = goal_lines(Results(), ALL, {comparison.label: figures}, "3.12")
    (missed,) = goal_lines(Results(), ALL, {comparison.label: "no answer"}, "3.12")
    assert met.split()[-1] == "met"
    assert missed.split()[-1] == "missed"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux pins processes to cores")
def test_processes_of_a_turn_run_on_the_cores_that_the_placement_says() -> None:
    server, client = Child("bench._load"), Child("bench._load")
    cores = os.sched_getaffinity(0)
    first, last = {min(cores)}, {max(cores)}
    try:
        with Processes() as processes:
            for placement, *expected in (
                (Placement.FREE, cores, cores),
                (Placement.ONE_CORE, last, last),
                (Placement.TWO_CORES, last, first),
            ):
                with processes.placed(placement, Server(0, server.pid, server), client):
                    assert [os.sched_getaffinity(child.pid) for child in (server, client)] == expected
                assert [os.sched_getaffinity(child.pid) for child in (server, client)] == [cores, cores]
    finally:
        server.stop()
        client.stop()


def test_a_machine_that_cannot_place_processes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child("bench._load")
    server = Server(0, child.pid, child)
    try:
        with Processes() as processes:
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
            with (
                pytest.raises(Cannot, match=r"^this machine has one core$"),
                processes.placed(Placement.TWO_CORES, server),
            ):
                pass
            monkeypatch.delattr(os, "sched_setaffinity", raising=False)
            with (
                pytest.raises(Cannot, match=r"^this system does not pin"),
                processes.placed(Placement.ONE_CORE, server),
            ):
                pass
    finally:
        child.stop()


def test_the_summary_has_a_line_for_each_main_ratio_and_a_column_for_each_python_version() -> None:
    results = Results()
    for workload in WORKLOADS:
        for place, contestant in enumerate(workload.contestants, start=1):
            results.add(workload.name, contestant, 1, {figure.metric: place for figure in workload.figures})
    compared = {comparison.label: {"ours": 1.0, "other": 5.0, "ratio": 0.2} for comparison in COMPARISONS}
    table = summary({"3.9": page(results, ALL, {}, compared), "3.10": page(Results(), ALL, {})}).splitlines()
    assert table[0].endswith("| [3.9](benchmark/python-3.9.md) | [3.10](benchmark/python-3.10.md) |")
    cells = [line.strip("| ").split(" | ")[2:] for line in table[2:]]
    assert len(cells) == len(LINES)
    assert all(measured.endswith("×") and missing == "–" for measured, missing in cells)  # noqa: RUF001 - signs of the page
    assert cells[-1][0] == "5.00×"  # noqa: RUF001 - the sign in the page


def test_a_run_replaces_the_table_of_the_performance_page_and_nothing_else(tmp_path: Path) -> None:
    performance = tmp_path / "performance.md"
    performance.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n", encoding="utf-8")
    for version in ("3.10", "3.9"):
        (tmp_path / f"python-{version}.md").write_text(page(Results(), ALL, {}), encoding="utf-8")
    update(performance, tmp_path)
    text = performance.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{BEGIN}\n\n| Use | Compared with | [3.9]")
    assert text.endswith(f"|\n\n{END}\n\nafter\n")
    assert "old" not in text


def test_the_performance_page_has_a_place_for_the_table() -> None:
    text = PERFORMANCE.read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert text.index(BEGIN) < text.index(END)


def test_the_99th_percentile_is_exceeded_by_one_of_a_hundred() -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], 99) == 99
    assert percentile([float(value) for value in range(200, 0, -1)], 99) == 198
    assert percentile([1.0], 99) == 1


def test_contestants_take_turns_in_another_order_each_round_and_the_first_round_does_not_count() -> None:
    turns: list[Contestant] = []

    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        turns.append(contestant)
        return {"time": 100.0 if len(turns) <= 2 else 1.0}

    results = Results()
    with Processes() as processes:
        run(Workload(TIME.workload, (OURS, PEER), turn, (TIME,)), results, processes, 2, 0, lambda _: None)
    assert turns == [OURS, PEER, PEER, OURS, OURS, PEER]
    assert results.median(TIME, OURS) == results.median(TIME, PEER) == 1


@pytest.mark.parametrize(("error", "text"), [(Cannot("so much"), "cannot: so much"), (Failed("oh"), "failed: oh")])
def test_a_contestant_that_fails_takes_no_more_turns_and_the_others_go_on(error: Failed, text: str) -> None:
    turns: list[Contestant] = []

    def turn(processes: Processes, contestant: Contestant, seconds: float) -> dict[str, float]:
        turns.append(contestant)
        if contestant is PEER:
            raise error
        return {"time": 1.0}

    results = Results()
    with Processes() as processes:
        run(Workload(TIME.workload, (OURS, PEER), turn, (TIME,)), results, processes, 2, 0, lambda _: None)
    assert turns.count(PEER) == 1
    assert turns.count(OURS) == 3
    assert results.failure(TIME.workload, PEER) == text
    assert results.failures() == ([] if isinstance(error, Cannot) else [f"{TIME.workload} ({PEER.name})"])


def test_a_comparison_is_shown_as_times_and_speed_or_as_an_error() -> None:
    slower, failed = COMPARISONS[1], COMPARISONS[2]
    faster = COMPARISONS[0]
    slow = {"ours": 0.004, "other": 0.002, "ratio": 2.0}
    fast = {"ours": 0.002, "other": 0.4, "ratio": 0.005}
    text = page(Results(), ALL, {}, {slower.label: slow, faster.label: fast, failed.label: "no answer"})
    rows = {line.split(" | ")[0]: line.strip("| ").split(" | ")[3:] for line in text.splitlines() if " | " in line}
    assert rows[f"| {slower.label}"] == ["4.00 ms", "2.00 ms", "0.50×"]  # noqa: RUF001 - the sign in the page
    assert rows[f"| {faster.label}"] == ["2.00 ms", "400 ms", "200×"]  # noqa: RUF001 - the sign in the page
    assert rows[f"| {failed.label}"][0] == "no answer"
    assert "no answer" in comparison_row(failed, "no answer")
