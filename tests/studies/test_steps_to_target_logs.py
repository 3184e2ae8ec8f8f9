"""Logs of other programs, from the file to the page."""

import json
from pathlib import Path

import pytest
from program import launch

from scaling.errors import UserError
from scaling.laws import Law
from scaling.report import write_report
from scaling.report.contents import read_kinds
from scaling.studies.steps_to_target.growth import growths
from scaling.studies.steps_to_target.logs import Asked, record_logs
from scaling.studies.steps_to_target.report import KIND

ZHANG = Path(__file__).parents[2] / "docs/results/zhang2024.csv"
CURVES = """batch,lr,step,loss
8,0.1,0,6
8,0.1,100,5
8,0.1,200,3.9
8,0.1,300,3.8
8,0.1,400,4.5
8,0.3,0,6
8,0.3,100,nan
16,0.1,0,6
16,0.1,50,
16,0.1,100,3.5
16,0.3,90,3.85
16,0.3,40,5
32,0.1,60,4
32,0.3,60,3
"""
STEPS = "batch,steps\n8,100\n16,60\n32,40\n64,30\n"


def read(workdirs):
    [(_, studies)] = read_kinds(workdirs)
    return studies


def write(path, text):
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def zhang(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zhang")
    said = []
    workdirs = record_logs([ZHANG], folder, Asked(unit="sequences", reference=256))
    return write_report(workdirs, folder, said.append), read(workdirs), said


def test_the_critical_batch_sizes_of_zhang_2024(zhang):
    page, studies, said = zhang
    assert [study.label for study in studies] == ["85M", "151M", "302M", "604M", "1.2B"]
    critical = [study.fit.b_crit for study in studies]
    assert critical == pytest.approx([2235, 3303, 5433, 7907, 11140], abs=1)
    hyperbola, overhead = growths(studies)
    assert overhead.law.exponents["tokens"] == pytest.approx(0.465, abs=0.001)
    assert overhead.law.intervals["tokens"] == pytest.approx((0.432, 0.498), abs=0.001)
    assert hyperbola.law.exponents["tokens"] == pytest.approx(0.610, abs=0.001)
    assert said[-2].startswith("all: Over 5 studies B_crit grows as tokens^0.61 (95%: 0.507 to")
    assert "20% more sequences than at 256 grows as tokens^0.465 (95%: 0.432 to" in said[-2]
    assert "Zhang et al. 2024" in said[-2] and said[-2] in page.read_text().replace(
        "B<sub>crit</sub>", "B_crit"
    ).replace("<b>all</b>", "all")
    table = (page.parent / "tables/points.csv").read_text()
    assert "1.2B" in table and table.count("\n") == 46
    assert (page.parent / "figures/growth.png").exists()


def test_the_first_crossing_of_each_run(tmp_path):
    log = write(tmp_path / "curves.csv", CURVES)
    [workdir] = record_logs([log], tmp_path / "w", Asked(goal=3.9))
    assert workdir == tmp_path / "w"
    [study] = read([workdir])
    points = {point.global_batch: point for point in study.points}
    # Strictly below 3.9, on the recorded steps; the step before is the last one recorded.
    assert (points[8].steps_to_target, points[8].resolution) == (300, (200, 300))
    assert (points[16].steps_to_target, points[16].resolution) == (90, (40, 90))
    assert (points[32].steps_to_target, points[32].resolution) == (60, (0, 60))
    assert points[8].counts == {"reached": 1, "missed": 0, "infeasible": 1}
    assert points[32].counts == {"reached": 1, "missed": 1, "infeasible": 0}
    assert points[16].best == {"learning_rate": 0.3}
    assert points[16].at_edge == [("learning_rate", "high")]
    assert study.goal_text == "a loss of 3.9" and study.subject == "In curves.csv"
    steps, values = points[16].curve
    assert (steps.tolist(), values.tolist()) == ([40, 90], [5, 3.85])


def test_higher_is_better(tmp_path):
    log = write(tmp_path / "curves.csv", CURVES.replace("loss", "bleu"))
    asked = Asked(goal=5.0, better="higher", metric="bleu")
    [study] = read(record_logs([log], tmp_path / "w", asked))
    assert [point.status for point in study.points] == ["met_at_start"] * 2 + ["target_not_reached"]
    assert study.points[-1].censored_at == 60


def test_a_goal_that_no_batch_of_some_reached_bounds_the_curve(tmp_path):
    log = write(tmp_path / "curves.csv", CURVES)
    [study] = read(record_logs([log], tmp_path / "w", Asked(goal=3.6)))
    assert study.points[0].censored_at == 400 and study.points[1].steps_to_target == 100
    assert "2 batch sizes reached the goal" in study.no_fit


def test_what_no_run_reached_is_bounded_by_the_run_that_ended_first(tmp_path):
    """A pruner may have ended the one that would have been first."""
    text = "batch,lr,steps,censored\n8,1,300,0\n16,1,170,0\n32,1,100,0\n64,1,60,1\n64,2,900,1\n"
    [study] = read(record_logs([write(tmp_path / "a.csv", text)], tmp_path / "w", Asked()))
    assert study.points[-1].censored_at == 60 and study.points[-1].budget_steps == 900


def test_a_batch_size_of_too_few_runs_is_not_compared(tmp_path):
    rows = [
        f"{2**k},{rate},{(100 + 6400 // 2**k) * rate}" for k in range(3, 9) for rate in range(1, 9)
    ]
    head, one = "batch,lr,steps\n", ["512,1,90"]
    studies = []
    for name, more in (("with", one), ("without", [])):
        path = write(tmp_path / f"{name}.csv", head + "\n".join(rows + more))
        [study] = read(record_logs([path], tmp_path / name, Asked()))
        studies.append(study)
    assert [study.fit.b_crit for study in studies] == [pytest.approx(64, rel=0.03)] * 2
    assert len(studies[0].points) == 7 and studies[0].fit.measured == studies[1].fit.measured
    said = KIND.cautions(studies[0])
    assert any(text.startswith("bs512: too few trials to be compared with the 8") for text in said)
    assert not any("compared" in text for text in KIND.cautions(studies[1]))


def test_intervals_sizes_and_units_of_a_table(tmp_path):
    text = "batch,steps,lower,upper,seq_len,params\n8,99.6,90.5,110.2,32,7\n"
    text += "16,60,,,32,7\n32,40,,,32,7\n"
    [study] = read(record_logs([write(tmp_path / "a.csv", text)], tmp_path / "w", Asked()))
    assert [p.steps_interval for p in study.points] == [(90, 111), None, None]
    assert study.points[0].steps_to_target == 100
    assert study.sizes == {"parameters": 7, "E_min": study.fit.e_min}
    assert study.log.tokens_per_example == 32
    assert study.goal_text == "the goal" and study.unit == "examples"


def test_what_an_outcome_may_say(tmp_path):
    """Examples in place of steps, runs that ended without the goal, searches behind a row."""
    text = "batch,examples,censored,trials\n8,800,0,4\n16,960,,4\n32,1600,false,9\n64,1280,1,4\n"
    [workdir] = record_logs([write(tmp_path / "log.csv", text)], tmp_path / "w", Asked())
    [study] = read([workdir])
    found = [(p.global_batch, p.steps_to_target, p.censored_at) for p in study.points]
    assert found == [(8, 100, None), (16, 60, None), (32, 50, None), (64, None, 20)]
    said = KIND.cautions(study)
    assert "bs32: the best of more trials than the 4 of another batch size" in said[1]
    assert said[2].startswith("bs8, bs16 and bs32: too few trials reached the goal")
    [workdir] = record_logs([write(tmp_path / "one.csv", STEPS)], tmp_path / "one", Asked())
    assert KIND.cautions(*read([workdir])) == []  # one run each, and no search is claimed


def test_runs_by_name_have_the_peak_of_their_schedule(tmp_path):
    rows = [
        {"run": run, "bs": batch, "lr": 0.1 * run * warmup, "step": step, "loss": 5 - step}
        for batch in (8, 16, 32)
        for run in (1, 2)
        for step, warmup in ((1, 0.5), (2, 1), (3, 0.1))
    ]
    log = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    [study] = read(record_logs([log], tmp_path / "w", Asked(goal=2.5)))
    assert [len(point.trials) for point in study.points] == [2, 2, 2]
    assert [t.values for t in study.points[0].trials] == [
        {"learning_rate": 0.1},
        {"learning_rate": 0.2},
    ]


def test_studies_by_column_and_by_file(tmp_path):
    both = "size,batch,steps\n" + "".join(
        f"{size},{row}\n" for size in ("a/b", "..") for row in STEPS.split()[1:]
    )
    logs = [write(tmp_path / "one.csv", both), write(tmp_path / "two.csv", both)]
    workdirs = record_logs(logs, tmp_path / "w", Asked(by="size"))
    assert [path.name for path in workdirs] == ["one_a_b", "one_..", "two_a_b", "two_.."]
    assert [study.label for study in read(workdirs[:2])] == ["one, a/b", "one, .."]
    [workdir] = record_logs([logs[0]], tmp_path / "v", Asked(by="size"))[1:]
    assert workdir.parent == tmp_path / "v" and workdir.name == "_"


def test_models_are_studies_and_sizes_are_not_mixed(tmp_path):
    rows = [row.split(",") for row in STEPS.split()[1:]]
    table = lambda *names: "".join(
        f"{batch},{steps},{name}\n" for name in names for batch, steps in rows
    )
    log = write(tmp_path / "a.csv", "batch,steps,model\n" + table("85M", "302M"))
    assert len(record_logs([log], tmp_path / "w", Asked())) == 2
    write(log, "batch,steps,params\n" + table("85", "302"))
    with pytest.raises(UserError, match=r"repeats line 2 .* with --by=COLUMN"):
        record_logs([log], tmp_path / "v", Asked())
    pairs = [f"{batch},{steps},{lr},{lr}\n" for batch, steps in rows for lr in (1, 2)]
    write(log, "batch,steps,params,lr\n" + "".join(pairs))
    with pytest.raises(UserError, match=r"runs of 2 sizes in params .* such as --by=params"):
        record_logs([log], tmp_path / "v", Asked())


def test_no_law_without_a_series_of_sizes(tmp_path):
    for sizes, laws in (((1, 2, 3), 0), ((1, 8), 0), ((1, 4, 16), 1)):
        rows = [f"{d},{d},{row}" for d in sizes for row in STEPS.split()[1:]]
        text = "study,tokens,batch,steps\n" + "\n".join(rows)
        workdir = tmp_path / "-".join(map(str, sizes))
        studies = read(record_logs([write(tmp_path / "a.csv", text)], workdir, Asked()))
        found = growths(studies)
        assert len(found) == laws
    [growth] = found
    assert isinstance(growth.law, Law)
    assert growth.law.exponents["tokens"] == pytest.approx(0, abs=1e-6)  # all have one curve


@pytest.mark.parametrize(
    "text, asked, says",
    [
        ("batch,steps\n8,9\n16,5\n", {}, r"a.csv has runs of 2 batch sizes; a curve takes 3"),
        (CURVES, {"goal": 1.0}, r"No run in .*a.csv has a loss below 1, the best is 3; set a"),
        (CURVES, {}, "has no column steps .*; for curves of a metric set --goal"),
        (CURVES, {"goal": 3.9, "by": "model"}, "Unknown --by column 'model'"),
        (CURVES, {"goal": 3.9, "metric": "los"}, "column 'los': did you mean 'loss'"),
        (CURVES + "8,0.1,0,7\n", {"goal": 3.9}, "line 16 of .* repeats line 2 of .*a.csv, with"),
        ("study,batch,steps\na b,8,9\na_b,16,5\n", {}, "Study 'a_b' of .* has a name like"),
        (STEPS + "8,101\n", {}, "line 6 of .* repeats line 2"),
        (STEPS + "128,many\n", {}, "line 6 of .*: steps is 'many', which is no number"),
        (STEPS + "128,\n", {}, "line 6 of .*a.csv has no steps"),
        (STEPS + "128,-3\n", {}, "line 6 of .*: steps is -3; it must be at least 1"),
        (STEPS + "-8,3\n", {}, "line 6 of .*: batch is -8; it must be at least 1"),
        ("batch,step,loss\n8,1,nan\n16,1,nan\n32,1,nan", {"goal": 1.0}, "the best is not finite"),
        ("batch,steps,censored\n8,9,1\n16,9,1\n32,9,1", {}, "Every run in .*a.csv is censored"),
        ("batch,steps,censored\n8,9,2\n", {}, "line 2 of .*: censored is '2'; write 1 for yes"),
    ],
)
def test_logs_that_cannot_be_used_leave_nothing(tmp_path, text, asked, says):
    log = write(tmp_path / "a.csv", text)
    with pytest.raises(UserError, match=says):
        record_logs([log], tmp_path / "w", Asked(**asked))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("changes", [{"better": "more"}, {"unit": "words"}])
def test_options_that_are_none(changes):
    with pytest.raises(UserError, match=f"Unknown --{next(iter(changes))}"):
        Asked(**changes)


def test_other_records_are_not_overwritten(tmp_path):
    log = write(tmp_path / "a.csv", STEPS)
    [workdir] = record_logs([log], tmp_path / "w", Asked())
    write(log, STEPS + "128,29\n")  # the log has grown
    record_logs([log], tmp_path / "w", Asked())
    assert len(read([workdir])[0].points) == 5
    for rows, asked in ((STEPS, Asked()), (STEPS + "128,29\n", Asked(unit="tokens"))):
        write(log, rows)
        with pytest.raises(UserError, match=r"has a record of other runs; delete .*w, or choose"):
            record_logs([log], tmp_path / "w", asked)


def test_the_command(tmp_path):
    write(tmp_path / "curves.csv", CURVES)
    code, out, err = launch("--fit=curves.csv", "--goal=3.9", cwd=tmp_path)
    assert code == 0, err
    assert "In curves.csv, steps to a loss of 3.9: the end of perfect scaling is" in out
    page = tmp_path / "runs/curves-goal=3.9/report.html"
    assert "Loss along the best trial" in page.read_text()
    code, again, _ = launch("--report=runs/curves-goal=3.9", cwd=tmp_path)
    assert code == 0 and again == out
    for arguments, says in (
        (["--goal=3.9"], "--goal is about the logs of --fit"),
        (["--fit=curves.csv", "--report=runs"], "--fit runs nothing; remove --report"),
        (["--fit="], "--fit is empty"),
        (["--fit=curves.csv", "--goal=3.9", "--reference=0"], "not a positive integer"),
    ):
        code, _, err = launch(*arguments, cwd=tmp_path)
        assert code == 2 and says in err and "Traceback" not in err


def test_a_report_on_the_studies_in_a_folder(tmp_path):
    rows = [f"{study},{row}" for study in "ab" for row in STEPS.split()[1:]]
    write(tmp_path / "logs.csv", "study,batch,steps\n" + "\n".join(rows))
    code, out, err = launch("--fit=logs.csv", cwd=tmp_path)
    assert code == 0, err
    code, again, err = launch("--report=runs/logs", cwd=tmp_path)
    assert code == 0 and again == out, err
