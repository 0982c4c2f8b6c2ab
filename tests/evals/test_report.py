import math
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.numpy import load_file

from steep.cli.task import GENERATED
from steep.errors import SteepError
from steep.evals.card import card, measured
from steep.evals.findings import Findings, Scoring, Spending, load_findings, save_findings
from steep.evals.levels import Choice, Tried
from steep.evals.mending import REPLAYERS
from steep.evals.plots import scientific
from steep.evals.reading import Span, mark_slips, readings, spans, survey
from steep.evals.report import report, report_markdown, summary
from steep.evals.report.closer import labels
from steep.evals.report.curves import _saturations
from steep.evals.report.markdown import as_markdown
from steep.evals.saturation import saturation
from steep.evals.source import open_source, open_sources, watched
from steep.evals.statistics import fit_log
from steep.evals.suite import cells_of
from steep.evals.thoughts import FOLLOWS, RAILS, Example, Figure
from steep.rollouts import rows
from steep.runs import Claim, Log, Stage, read_json, write_json
from steep.tasks.countdown import Countdown
from steep.types import Replayer, Verdict, correct

CLAIMS = [
    Claim(id="nano.r2", value=0.97, low=0.95, high=0.98, bar=">= 0.95", command="steep train recipes/nano.py"),
    Claim(id="nano.gain", value=0.12, low=0.08, high=0.17, bar=">= 0.15", command="steep train recipes/nano.py"),
]
VOID = {"meta", "input", "br", "link", "img"}


class Outline(HTMLParser):
    """Checks that what is opened is closed, and collects tags, attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def written(whole_run, tmp_path_factory):
    return report([whole_run], tmp_path_factory.mktemp("report") / "out", CLAIMS)


@pytest.fixture(scope="module")
def page(written):
    return written.index.read_text(encoding="utf-8")


def test_the_page_is_one_file_that_asks_the_network_for_nothing(page):
    outline = Outline(page)
    assert outline.tags.count("script") == 1
    assert outline.tags.count("style") == 1
    assert not {"link", "iframe", "img", "object"} & set(outline.tags)
    references = [value for name, value in outline.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith("#") for value in references)
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_hostile_text_is_shown_and_not_obeyed(page):
    assert "<script>alert" not in page
    assert "&lt;/pre&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;\\x1b[2J\\u202e to make" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&quot;name&quot;: &quot;&lt;script&gt;&quot;" in page  # in the config


def test_the_story_and_the_claims(page, whole_run):
    text = Outline(page).text
    assert f"a language model of {open_source(whole_run).parameters / 1000:.3g} thousand parameters" in text
    assert "steep train recipes/nano.py --rl.num_steps 20" in text
    assert "reinforcement learning (on 600 thousand tokens out of 800 thousand sampled tokens" in text
    assert "nano.r2 0.97 0.95 to 0.98 >= 0.95 ✓ holds" in text
    assert "nano.gain 0.12 0.08 to 0.17 >= 0.15 ✗ fails" in text
    assert "Missing" not in text


def test_compute_is_6_for_trained_and_2_for_sampled_tokens(whole_run):
    source = open_source(whole_run)
    rows = source.parameters
    before = 6 * rows * 8192 * (60 + 100)
    step = 6 * rows * 30_000 + 2 * rows * 40_000
    found = [w for w in watched(source) if (w.task, w.budget) == ("countdown", 128)]
    assert [w.flops for w in found] == [before, *(before + step * done for done in (4, 8, 12, 16, 20))]
    assert [w.start for w in found] == [True, False, False, False, False, False]
    assert (found[0].value, found[0].low, found[0].high) == pytest.approx((0.25, 0.20, 0.31))


def test_parameters_are_those_of_the_model(whole_run):
    tensors = load_file(whole_run / "rl" / "model" / "model.safetensors")
    assert open_source(whole_run).parameters == sum(tensor.size for tensor in tensors.values())


def test_fits_stand_in_the_legend_and_in_the_json(page, written, whole_run):
    cells = [
        c for c in open_source(whole_run).cells
        if (c.model, c.task, c.mode, c.level) == ("rl", "countdown", "sampled", None) and c.budget > 0
    ]  # fmt: skip
    fit = fit_log([c.budget for c in cells], [c.value for c in cells])
    assert f"rl: {100 * fit.slope:+.1f} points a doubling, R² = {fit.r2:.3f}" in page
    (kept,) = [
        f for f in read_json(written.json)["fits"]
        if (f["model"], f["task"], f["mode"]) == ("rl", "countdown", "sampled")
    ]  # fmt: skip
    assert (kept["slope"], kept["r2"]) == pytest.approx((fit.slope, fit.r2))


def test_json_holds_the_claims_and_all_cells(written, whole_run):
    document = read_json(written.json)
    assert [(c["id"], c["holds"]) for c in document["claims"]] == [("nano.r2", True), ("nano.gain", False)]
    assert len(document["cells"]) == len(open_source(whole_run).cells)
    assert document["cells"][0]["run"] == "nano"
    assert {"commit", "machine", "versions", "seconds"} <= document.keys()
    assert len(document["training"]) == 4 * 6


def test_thought_length_follows_the_level(written, page, whole_run):
    ranks = {(r["model"], r["task"], r["mode"]): r["spearman"] for r in read_json(written.json)["thought_by_level"]}
    rank = ranks["rl", "countdown", "sampled"]
    assert 0.3 < rank < 1
    assert f"rl: ρ = {rank:.2f}" in page


def test_every_plot_is_a_picture_too(written, page):
    assert len(written.plots) == page.count("<figure")
    assert {"compute-countdown", "budget-countdown-sampled", "budget-letters-greedy", "course-rl-reward"} <= {
        path.stem for path in written.plots
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.plots)


def test_forced_tokens_are_marked(making, template):
    row = {"thought": "", "answer": ""}
    cut = making.rollout(template, "3 + 5 = 8, 8 * 3 = 24. That is not 20", "24", 6, correct())
    thought, answer = spans(row | {"ids": cut.ids.tolist(), "sampled": cut.sampled.tolist()}, template)
    kept = template.tokenizer.decode(cut.ids[:6].tolist())
    assert thought == (Span(kept), Span("</think>", forced=True, control=True))
    assert answer == (Span("24"), Span("<|end|>", control=True))
    free = making.rollout(template, "3 + 5 = 8", "24", 99, correct())
    thought, _ = spans(row | {"ids": free.ids.tolist(), "sampled": free.sampled.tolist()}, template)
    assert thought == (Span("3 + 5 = 8"), Span("</think>", control=True))


def test_the_page_marks_forced_tokens(page):
    assert '<mark title="forced by the budget"><span class="control">&lt;/think&gt;</span></mark>' in page


def test_without_a_template_the_text_is_shown_unmarked():
    row = {"thought": "3 + 5", "answer": "8", "ids": [1], "sampled": [True]}
    assert spans(row, None) == ((Span("3 + 5"),), (Span("8"),))


def test_rollouts_of_every_kind_are_chosen(whole_run):
    source = open_source(whole_run)
    chosen = readings(source, survey(source), 60)
    assert len(chosen) == 60
    assert {r.task for r in chosen} == {"countdown", "letters"}
    assert {"correct", "wrong"} <= {r.verdict for r in chosen}
    assert {r.budget for r in chosen} >= {0, 16, 32, 64, 128, 256}
    origins = [r.origin for r in chosen]
    assert {"test, sampled", "test, greedy", "rl step 19"} <= set(origins)
    assert len(readings(source, survey(source), 7)) == 7
    assert chosen == readings(source, survey(source), 60)


def test_filters_offer_what_there_is(page):
    assert re.search(r'<select data-filter="verdict".*?<option value="correct">', page)
    assert re.search(r'<select data-filter="budget"[^>]*><option value="">all budgets</option><option value="0">', page)
    assert re.search(r'<select data-filter="source"[^>]* hidden>', page)  # one run: nothing to choose


def keep(evaluation, task, mode):
    """Forget the other cells, so that there is less to draw."""
    cells = read_json(evaluation / "cells.json")
    write_json(evaluation / "cells.json", [c for c in cells if (c["task"], c["mode"]) == (task, mode)])


def test_several_runs_are_overlaid(whole_run, tmp_path):
    for name in ("nano", "longer"):
        shutil.copytree(whole_run, tmp_path / name)
        keep(tmp_path / name / "eval", "countdown", "sampled")
        for stage in ("pretrain", "sft"):
            (tmp_path / name / stage / "timing.jsonl").unlink()
    files = report([tmp_path / "nano", tmp_path / "longer"], tmp_path / "out")
    outline = Outline(files.index.read_text())
    assert "nano rl, 128 tokens of thought" in outline.text
    assert "longer rl, 128 tokens of thought" in outline.text
    assert "32 tokens of thought" not in outline.text
    assert {cell["run"] for cell in read_json(files.json)["cells"]} == {"nano", "longer"}


def test_runs_of_one_name_are_told_apart(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "nano")
    assert [s.name for s in open_sources([whole_run, tmp_path / "nano", whole_run])] == [
        str(whole_run), str(tmp_path / "nano")
    ]  # fmt: skip


def test_a_run_that_died_is_reported_as_far_as_it_went(making, template, tmp_path):
    def die():
        with making.new_run(tmp_path / "dead") as run:
            making.supervised(run, "pretrain", 5, template)
            run.stage("sft").record(0, {"loss": 3.0, "tokens": 8})
            raise ValueError("loss is <NaN>")

    with pytest.raises(ValueError, match="loss"):
        die()
    files = report([tmp_path / "dead"], tmp_path / "out")
    text = Outline(files.index.read_text()).text
    assert "The run failed: ValueError: loss is <NaN>." in text
    assert "sft is not finished" in text
    assert "rl has not begun" in text
    assert "there is no evaluation" in text
    assert "Rollouts to read" not in text
    assert read_json(files.json)["cells"] == []
    assert {path.stem for path in files.plots} == {
        "course-pretrain-loss",
        "course-pretrain-tokens-s",
        "course-sft-loss",
    }


def test_a_run_that_has_just_begun(making, tmp_path):
    making.new_run(tmp_path / "new")
    files = report([tmp_path / "new"], tmp_path / "out")
    text = Outline(files.index.read_text()).text
    assert "The run is still going on." in text
    assert "pretrain has not begun" in text
    assert files.plots == ()


def test_parameters_of_a_run_without_a_model_are_those_of_its_checkpoint(making, template, tmp_path):
    run = making.new_run(tmp_path / "new")
    stage = run.stage("pretrain")
    assert open_source(run.path).parameters is None
    stage.save_checkpoint(0, {}, {"a": torch.zeros(3, 4), "b": torch.zeros(5)})
    stage.wait()
    assert open_source(run.path).parameters == 17


def test_rl_without_counted_tokens_has_no_compute(making, template, tmp_path):
    run = making.new_run(tmp_path / "old")
    making.supervised(run, "sft", 2, template)
    run.stage("rl").record(0, {"reward": 0.5, "valid/countdown@128": 0.5})
    assert watched(open_source(run.path)) == []
    assert report([run.path], tmp_path / "out").index.exists()


def test_an_evaluation_without_a_run(whole_run, tmp_path):
    shutil.copytree(whole_run / "eval", tmp_path / "smol")
    keep(tmp_path / "smol", "countdown", "greedy")
    files = report([tmp_path / "smol"], tmp_path / "out")
    text = Outline(files.index.read_text()).text
    assert "smol is an evaluation of sft, rl" in text.replace(" ,", ",")
    assert "points a doubling" in text
    assert "How it was made" not in text


def test_paths_that_are_no_runs(tmp_path):
    with pytest.raises(SteepError, match="neither a run nor an evaluation"):
        report([tmp_path / "nothing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SteepError, match="nothing to report on"):
        report([], tmp_path / "out")


def test_a_report_needs_a_directory(whole_run, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(SteepError, match="a file is in the way"):
        report([whole_run], tmp_path / "out")


def test_summary(whole_run):
    table = summary([whole_run])
    assert [column.header for column in table.columns] == ["task", "model", "0", "16", "32", "64", "128", "256"]
    cells = {
        (c.task, c.model, c.budget): c for c in open_source(whole_run).cells if c.mode == "sampled" and not c.level
    }
    best = cells["countdown", "rl", 256]
    assert table.columns[-1]._cells[1].plain == f"{best.value:.0%}\n{100 * best.low:.0f}-{100 * best.high:.0f}"
    none, most = cells["letters", "rl", 0], cells["letters", "rl", 128]
    assert f"letters, rl: {none.value:.0%} without a thought, {most.value:.0%} with 128 tokens" in str(table.caption)


def test_summary_needs_an_evaluation(making, tmp_path):
    making.new_run(tmp_path / "new")
    with pytest.raises(SteepError, match="nothing is evaluated"):
        summary([tmp_path / "new"])


def test_mistakes_are_marked_for_every_task_whose_thoughts_can_be_worked_out_again():
    assert set(REPLAYERS) == {name for name, make in GENERATED.items() if isinstance(make(), Replayer)}


def test_slips_are_marked_across_spans():
    cut = (Span("8*3=2"), Span("6 no 8*3=24>20 7/2=3 "), Span("</think>", forced=True, control=True))
    marked = mark_slips(cut, Countdown())
    assert [(span.text, span.slip) for span in marked] == [
        ("8*3=2", "mended"), ("6", "mended"), (" no ", None), ("8*3=24", "mending"), (">20 ", None), ("7/2=3", "wrong"),
        (" ", None), ("</think>", None),
    ]  # fmt: skip
    assert marked[-1] == cut[-1]


@pytest.fixture
def suite(whole_run, tmp_path):
    """An evaluation of the run's model by the o1 suite."""
    path = tmp_path / "nano-rl-o1"
    path.mkdir()
    shutil.copytree(whole_run / "eval" / "rollouts", path / "rollouts")
    shutil.copy(whole_run / "eval" / "cells.json", path)
    keep(path, "countdown", "sampled")
    write_json(path / "eval.json", {"model": str(whole_run / "rl" / "model"), "command": "steep eval nano --suite o1"})
    one = Spending(
        task="countdown", level=3, budget=16, method="one", samples=1, tokens=24.0, problems=48, value=0.31, low=0.2,
        high=0.4, file=7,
    )  # fmt: skip
    longer = replace(one, budget=64, tokens=70.0, value=0.42, file=8)
    most = replace(one, method="majority", samples=8, tokens=192.0, value=0.57)
    best = replace(most, method="best", value=0.64)
    tried = (Tried(level=1, value=0.97, low=0.9, high=0.99), Tried(level=3, value=0.42, low=0.3, high=0.5))
    findings = Findings(
        choices=(Choice(task="countdown", level=3, tried=tried),),
        scorings=(Scoring(task="countdown", budget=16, answers=384, error=0.034),),
        spendings=(one, longer, most, best),
        left_out=("letters: no <scorer>",),
        overlaps=("countdown: 3 of 48 test problems",),
    )
    save_findings(path, findings)
    return path


def test_the_two_plots_come_first_and_then_the_best_way_to_spend_tokens(suite, tmp_path):
    files = report([suite], tmp_path / "out")
    page = files.index.read_text()
    text = Outline(page).text
    assert "nano-rl-o1 is an evaluation of sft, rl, made by steep eval nano --suite o1" in text.replace(" ,", ",")
    order = [
        "countdown: accuracy against training compute",
        "countdown: accuracy against thinking budget, sampled",
        "countdown: accuracy against tokens, by how they are spent",
        "Loss, fine-tuning over the steps",
    ]
    assert sorted(order, key=page.index) == order
    assert "countdown, level 3; saturated (above 95%, or not to be told from 100%): level 1" in text
    assert "128 one answer, up to 64 tokens of thought 42.0% 20.0–40.0 42.0% 20.0–40.0" in text
    assert "256 the scorer’s choice of 8, up to 16 tokens of thought 64.0% 20.0–40.0 42.0% 20.0–40.0" in text
    assert "64.0% 20.0–40.0 48 0.034 rollouts/step-000007.parquet" in text
    assert "letters: no &lt;scorer&gt;" in page
    assert "countdown: 3 of 48 test problems" in text
    assert {path.stem for path in files.plots} >= {"tokens-countdown", "compute-countdown"}
    kept = read_json(files.json)["o1"]["nano-rl-o1"]
    assert [s["value"] for s in kept["spendings"]] == [0.31, 0.42, 0.57, 0.64]


def test_curves_of_different_levels_are_told_apart(suite, tmp_path):
    other = tmp_path / "easier"
    shutil.copytree(suite, other)
    findings = load_findings(other)
    save_findings(other, replace(findings, choices=(replace(findings.choices[0], level=1),)))
    text = Outline(report([suite, other], tmp_path / "out", alone=True).index.read_text()).text
    assert "nano-rl-o1 rl, level 3: " in text
    assert "easier rl, level 1: " in text
    assert "Curves of different levels are of different problems" in text
    assert "countdown: while thinking" in text
    alone = Outline(report([suite], tmp_path / "out", alone=True).index.read_text()).text
    assert "countdown, level 3: while thinking" in alone
    assert "Curves of different levels" not in alone


def test_a_report_beside_its_run_tells_the_training_once(suite, whole_run):
    run, evaluation = open_sources([whole_run, suite])
    assert (list(run.stages), list(evaluation.stages)) == (["pretrain", "sft", "rl"], [])
    assert list(open_source(suite).stages) == ["pretrain", "sft", "rl"]


def test_the_page_alone(suite, tmp_path):
    files = report([suite], tmp_path / "out", alone=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    assert (files.json, files.plots) == (None, ())


def test_where_reinforcement_learning_is_going(making, template, tmp_path):
    with making.new_run(tmp_path / "long") as run:
        making.supervised(run, "sft", 5, template)
        making.reinforced(run, template, steps=48)  # evaluated every four steps
    source = open_source(run.path)
    fit = source.scalings["countdown", 128]
    course = [w for w in watched(source) if (w.task, w.budget) == ("countdown", 128)]
    assert fit.before == course[0].flops
    assert fit.scaling.points == 1 + 11  # after the first tenth
    assert fit.scaling.asymptote.value == pytest.approx(0.6, abs=0.02)
    assert fit.scaling.forecast_error < 0.05
    files = report([run.path], tmp_path / "out")
    text = Outline(files.index.read_text()).text
    assert "Where reinforcement learning is going" in text
    assert f"countdown 128 {fit.scaling.asymptote.value:.1%}" in text
    half = fit.scaling.half
    assert " ".join(map(scientific, (half.value, half.low))) + f"–{scientific(half.high)}" in text
    assert "no rise measured" not in text
    assert len(read_json(files.json)["scaling"]) == 4


def test_a_run_that_learnt_nothing_is_going_nowhere(making, template, tmp_path):
    with making.new_run(tmp_path / "flat") as run:
        making.supervised(run, "sft", 5, template)
        making.reinforced(run, template, steps=48, skill=0)
    page = report([run.path], tmp_path / "out", alone=True).index.read_text()
    assert "countdown 128 no rise measured 12 0.0 points" in Outline(page).text


def test_few_evaluations_tell_nothing_of_where_it_is_going(page):
    assert "is fitted from 8 evaluations on" in page


# What stands beside runs and evaluations


def test_what_is_said_of_modes_without_a_button_is_always_shown():
    curve = saturation({16: {"a": 0.0}, 32: {"a": 1.0}, 64: {"a": 1.0}})
    surveyed = SimpleNamespace(saturations={("rl", "c", mode): curve for mode in ("told", "chunked")})
    said = _saturations([SimpleNamespace(name="nano")], [surveyed])
    assert said.count("<li") == 2
    assert '<li data-mode="told"><b>c, rl, told</b>' in said
    assert "<li><b>c, rl, chunked</b>" in said


def test_saturation_is_said_in_words(page, written, whole_run):
    found = survey(open_source(whole_run)).saturations["rl", "countdown", "sampled"]
    assert f"<b>countdown, rl, sampled</b>: {found.words}." in page
    assert found.problems >= 45  # of 48, less those whose checks failed
    kept = {(s["model"], s["task"], s["mode"]): s for s in read_json(written.json)["saturations"]}
    assert kept["rl", "countdown", "sampled"]["gain"]["value"] == pytest.approx(found.gain.value)


def test_saturation_is_of_the_scores_that_accuracies_are_the_means_of(making, template, tmp_path):
    (asked,) = making.groups(template, "countdown", 64, 0.5, problems=1)
    by_budget = {}
    for budget, score in ((16, 0.25), (32, 0.5), (64, 0.75)):
        answered = making.rollout(template, "3 + 5", "8", budget, Verdict(kind="wrong", score=score))
        by_budget[budget] = [replace(asked, rollouts=(answered,))]
    cells = cells_of("rl", "countdown", "sampled", by_budget)
    saved = [{"model": "rl", "mode": "sampled", **row} for part in by_budget.values() for row in rows(part, template)]
    Stage(tmp_path).save_rollouts(0, saved)
    write_json(tmp_path / "cells.json", [asdict(cell) for cell in cells])
    found = survey(open_source(tmp_path)).saturations["rl", "countdown", "sampled"]
    assert [cell.value for cell in cells] == [0.25, 0.5, 0.75]
    assert (found.gain.value, found.fit.slope) == (0.25, pytest.approx(0.25))


def test_contents_link_to_every_chapter(page):
    outline = Outline(page)
    links = [value[1:] for name, value in outline.attributes if name == "href" and not value.startswith("#p")]
    chapters = re.findall(r'<h2 id="([^"]+)"', page)
    assert links == chapters
    assert {"what-is-claimed", "the-card", "rollouts-to-read"} < set(chapters)


def test_the_levels_that_were_tried_are_told(suite, tmp_path):
    text = Outline(report([suite], tmp_path / "out", alone=True).index.read_text()).text
    assert "countdown : from level 1 (97%, saturated) up to level 3, which at 42% is the first that is not easy" in text
    assert "countdown, level 1 saturated 97.0% 90.0–99.0 countdown, level 3 measured 42.0%" in text


def test_mended_mistakes_are_counted_from_the_saved_thoughts(page, whole_run):
    found = survey(open_source(whole_run)).mended["rl", "countdown", "sampled"]
    assert found.wrong.value == 0  # the made thoughts calculate rightly
    assert "countdown rl sampled 0.0% 0.0–7.4 – –" in Outline(page).text


def test_thoughts_that_say_that_they_doubt_are_counted_where_no_step_can_be_worked_out(page, whole_run):
    surveyed = survey(open_source(whole_run))
    assert "letters" in {task for _, task, _ in surveyed.doubting}
    assert "countdown" not in {task for _, task, _ in surveyed.doubting}
    assert surveyed.doubting["rl", "letters", "sampled"].marked.value == 1  # "try again" stands in all of them
    assert "thoughts that say so" in Outline(page).text


@pytest.fixture
def thoughts(tmp_path):
    """What `steep thoughts` writes."""
    example = Example(
        prompt="Use <3>", thought="3+5=9", answer="<script>", verdict="wrong", reason="makes 8", counted=0.0
    )
    figures = [
        Figure(part=FOLLOWS, name="right after no thought", value=0.14, low=0.05, high=0.35, rollouts=21,
               examples=(example,)),
        Figure(part=RAILS, name="rewarded where nothing is right", value=math.nan, low=0.0, high=1.0, rollouts=0,
               examples=()),
    ]  # fmt: skip
    directory = tmp_path / "thoughts"
    directory.mkdir()
    models = {"nano/rl": [asdict(figure) for figure in figures]}
    write_json(
        directory / "thoughts.json",
        {"task": "countdown", "problems": 40, "models": models, "command": "steep thoughts nano"},
    )
    return directory


def test_thoughts_stand_beside_their_examples(suite, thoughts, tmp_path):
    page = report([suite, thoughts], tmp_path / "out", alone=True).index.read_text()
    text = Outline(page).text
    assert "right after no thought 14% (5-35) of 21" in text
    assert "rewarded where nothing is right - of 0" in text
    assert "nano/rl, right after no thought, counted 0" in text
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    assert "Measured by steep thoughts nano" in text


def asked_of(model, right):
    tallies = {"0": {}, "64": {"probes/a": {"right": right, "wrong": 4 - right, "invalid": 0, "reason": ""}}}
    return {"settings": {"model": str(model), "budgets": [0, 64], "samples": 4, "answer": 8}, "tallies": tallies}


def test_only_the_probes_of_these_models_are_told_and_only_the_last(whole_run, suite, tmp_path):
    history = tmp_path / "probes.jsonl"
    for model, right in ((whole_run / "rl" / "model", 1), ("/elsewhere/model", 4), (whole_run / "rl" / "model", 3)):
        Log(history).append(asked_of(model, right))
    text = Outline(report([suite, history], tmp_path / "out", alone=True).index.read_text()).text
    assert "category probes nano/rl no thought nano/rl 64 tokens all 1 – 75.0% 30.1–95.4 your own 1 – 75.0%" in text


def test_columns_of_different_models_have_different_names():
    paths = [Path(name) for name in ("/models/A", "/models/B.gguf", "/a/nano/rl/model", "/b/nano/rl/model")]
    assert list(labels(paths).values()) == ["models/A", "models/B.gguf", "/a/nano/rl/model", "/b/nano/rl/model"]
    assert list(labels(paths[1:3]).values()) == ["models/B.gguf", "nano/rl"]


def test_probes_of_other_models_only_are_a_mistake(suite, tmp_path):
    history = tmp_path / "probes.jsonl"
    Log(history).append(asked_of("/elsewhere/model", 4))
    with pytest.raises(SteepError, match="no answers of these models"):
        report([suite, history], tmp_path / "out")


def test_thoughts_alone_are_no_report(thoughts, tmp_path):
    with pytest.raises(SteepError, match="nothing to report on"):
        report([thoughts], tmp_path / "out")


def test_the_card_stands_in_the_page(page, whole_run):
    (habits, *_) = card(measured(whole_run), "rl").habits
    low, middle, high = habits.thought
    assert f"countdown, 256 {middle:.0f} {low:.0f} and {high:.0f}" in Outline(page).text


# Markdown


def test_markdown_has_the_chapters_with_the_pictures_beside_it(suite, thoughts, tmp_path):
    files = report_markdown([suite, thoughts], tmp_path / "docs" / "nano.md")
    text = files.index.read_text(encoding="utf-8")
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    outline = Outline(rendered)
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[:3] == [
        "Accuracy by training compute and by thinking time",
        "The best way to spend a given number of tokens",
        "Which levels still tell something",
    ]
    pictures = [value for name, value in outline.attributes if name == "src"]
    pairs = [re.findall(r'src="(.*?)"', line) for line in text.split("\n") if line.startswith("<img")]
    assert pairs[0] == ["nano-compute-countdown.png", "nano-budget-countdown-sampled.png"]
    assert "nano-tokens-countdown.png" in pairs[2]
    beside = {path.name for path in (tmp_path / "docs").iterdir()} - {"nano.md"}
    assert set(pictures) == beside == {path.name for path in files.plots}
    assert "countdown, level 1 saturated 97.0% (90.0–99.0)" in outline.text
    assert "Use &lt;3&gt;" in rendered
    assert not {"script", "select", "button", "input"} & set(outline.tags)
    assert "the whole config" not in text
    assert outline.text.count("nano-rl-o1") >= 1


def test_hostile_text_is_no_markdown():
    page = (
        "<p><b>a*b</b> [x](y) &lt;img src=x&gt; | `c`</p><pre>```\n# no</pre>"
        "<table><tr><th>a|b</th></tr><tr><td><code>c|d</code></td></tr></table>"
    )
    rendered = MarkdownIt("commonmark").enable("table").render(as_markdown(page, ""))
    assert "<p><strong>a*b</strong> [x](y) &lt;img src=x&gt; | `c`</p>" in rendered
    assert "<pre><code>```\n# no\n</code></pre>" in rendered
    assert "<th>a|b</th>" in rendered
    assert "<td><code>c|d</code></td>" in rendered
