"""The benchmark's statistics and its report, on figures made up."""

import pytest
from support.children import Cannot, Failed

from ._comparisons import COMPARISONS
from ._contestants import CONTESTANTS, NATIVE, OURS, PEER, Arena, Contestant
from ._load import percentile
from ._report import ROWS, cell, comparison_row, formatted, markdown, row
from ._results import Figure, Results
from ._run import run
from ._workloads import WORKLOADS, Workload

TIME = Figure("reply 8 MB", "time", "reply 8 MB", "time")
RATE = Figure("in flight", "rate", "requests in flight", "rate")
ALL = [figure for workload in WORKLOADS for figure in workload.figures]


def measured(figure: Figure, **rounds: list[float]) -> Results:
    """Return results that have one figure, of the contestants `ours`, `peer` and `native`, round by round."""
    results = Results()
    names = {"ours": OURS, "peer": PEER, "native": NATIVE}
    for name, values in rounds.items():
        for round_, value in enumerate(values, start=1):
            results.add(figure.workload, names[name], round_, {figure.metric: value})
    return results


def report_row(results: Results, figure: Figure) -> list[str]:
    """Return the cells of the figure's first row in the report."""
    report = markdown(results, ALL, {})
    return next(line for line in report.splitlines() if line.startswith(f"| {figure.label} |")).strip("| ").split(" | ")


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


def test_a_round_that_one_of_them_lacks_has_no_ratio() -> None:
    results = measured(TIME, ours=[1, 2, 3], native=[1])
    assert results.ratio(TIME, OURS, NATIVE) == 1
    assert results.ratio(TIME, OURS, PEER) is None


def test_times_and_rates_are_both_told_as_times_better_than_the_peer() -> None:
    assert report_row(measured(TIME, ours=[2], peer=[6]), TIME)[3] == "3.00×"  # noqa: RUF001 - the sign that the report has
    assert report_row(measured(RATE, ours=[6], peer=[2]), RATE)[3] == "3.00×"  # noqa: RUF001 - the sign that the report has


def test_who_cannot_or_failed_has_no_figure_but_a_reason() -> None:
    results = measured(TIME, ours=[2], peer=[1], native=[1])
    results.fail(TIME.workload, PEER, "cannot: messages over 1 MiB")
    results.fail(TIME.workload, NATIVE, "failed: no answer")
    assert (cell(results, TIME, PEER), cell(results, TIME, NATIVE)) == ("cannot", "failed")
    assert results.median(TIME, PEER) is None
    assert report_row(results, TIME)[3] == "cannot"
    assert "- rayforce-py WebSocket, reply 8 MB: cannot: messages over 1 MiB\n" in markdown(results, ALL, {})


def test_the_table_has_a_column_for_every_contestant() -> None:
    assert len(row(measured(TIME, ours=[2]), TIME).removeprefix(TIME.label).split()) == len(CONTESTANTS) + 1  # "2.00 s"


def test_a_report_leaves_out_what_was_not_measured() -> None:
    report = markdown(measured(TIME, ours=[2]), ALL, {})
    assert "| reply 8 MB |" in report
    assert "| reply 80 MB |" not in report


def test_each_line_of_the_report_has_a_figure_that_its_contestants_are_measured_in() -> None:
    figures = {(figure.workload, figure.metric) for figure in ALL}
    contestants = {workload.name: workload.contestants for workload in WORKLOADS}
    for line in ROWS:
        assert (line.workload, line.metric) in figures
        assert {line.subject, PEER, line.native or PEER} <= {*contestants[line.workload]}


def test_the_99th_percentile_is_exceeded_by_one_of_a_hundred() -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], 99) == 99
    assert percentile([float(value) for value in range(200, 0, -1)], 99) == 198
    assert percentile([1.0], 99) == 1


def test_contestants_take_turns_in_another_order_each_round_and_the_first_round_does_not_count() -> None:
    turns: list[Contestant] = []

    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        turns.append(contestant)
        return {"time": 100.0 if len(turns) <= 2 else 1.0}

    results = Results()
    with Arena() as arena:
        run(Workload(TIME.workload, (OURS, PEER), turn, (TIME,)), results, arena, 2, 0, lambda _: None)
    assert turns == [OURS, PEER, PEER, OURS, OURS, PEER]
    assert results.median(TIME, OURS) == results.median(TIME, PEER) == 1


@pytest.mark.parametrize(("error", "text"), [(Cannot("so much"), "cannot: so much"), (Failed("oh"), "failed: oh")])
def test_a_contestant_that_fails_is_out_and_the_others_go_on(error: Failed, text: str) -> None:
    turns: list[Contestant] = []

    def turn(arena: Arena, contestant: Contestant, seconds: float) -> dict[str, float]:
        turns.append(contestant)
        if contestant is PEER:
            raise error
        return {"time": 1.0}

    results = Results()
    with Arena() as arena:
        run(Workload(TIME.workload, (OURS, PEER), turn, (TIME,)), results, arena, 2, 0, lambda _: None)
    assert turns.count(PEER) == 1
    assert turns.count(OURS) == 3
    assert results.failure(TIME.workload, PEER) == text


def test_a_comparison_is_reported_as_a_ratio_with_its_goal_or_as_an_error() -> None:
    slower, failed = COMPARISONS[1], COMPARISONS[2]
    faster = COMPARISONS[0]
    figures = {"ours": 0.002, "other": 0.004, "ratio": 0.5}
    report = markdown(Results(), ALL, {}, {slower.label: figures, faster.label: figures, failed.label: "no answer"})
    rows = {line.split(" | ")[0]: line.strip("| ").split(" | ")[3:] for line in report.splitlines() if " | " in line}
    assert rows[f"| {slower.label}"] == ["2.00 ms", "4.00 ms", "0.50 times its time", "≤ 1.2 times its time"]
    assert rows[f"| {faster.label}"] == ["2.00 ms", "4.00 ms", "2.00 times faster", "≥ 100 times faster"]
    assert rows[f"| {failed.label}"][0] == "no answer"
    assert "no answer" in comparison_row(failed, "no answer")
