import math
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from steep.evals import plots
from steep.evals.plots import Curve, Point


def curve(xs, values, name="rl", **changes):
    points = tuple(Point(x=x, value=v, low=v - 0.05, high=v + 0.05) for x, v in zip(xs, values, strict=True))
    return Curve(name=name, points=points, **changes)


def legend(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_the_fit_leaves_out_the_budget_of_0():
    fitted = curve([0, 16, 32, 64], [0.9, 0.4, 0.5, 0.6]).fit
    assert (fitted.slope, fitted.r2) == pytest.approx((0.1, 1.0))
    assert curve([0, 16, 32], [0.9, 0.4, 0.5]).fit is None


def test_slope_and_r2_stand_in_the_legend():
    figure = plots.accuracy_by_budget([curve([0, 16, 32, 64, 128], [0.1, 0.4, 0.5, 0.55, 0.65])], "countdown")
    assert legend(figure) == ["rl: +8.0 points a doubling, R² = 0.985"]


def test_budgets_stand_a_doubling_apart_and_0_apart_from_them():
    figure = plots.accuracy_by_budget([curve([0, 16, 32, 128], [0.1, 0.4, 0.5, 0.6])], "countdown")
    (axes,) = figure.axes
    assert axes.get_xticks().tolist() == [4 - plots.BREAK, 4, 5, 7]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "16", "32", "128"]


@pytest.mark.parametrize("budgets", [[0], [64], [0, 64], [16, 32]])
def test_few_budgets_are_drawn_too(budgets):
    figure = plots.accuracy_by_budget([curve(budgets, [0.5] * len(budgets))], "countdown")
    assert legend(figure) == ["rl"]
    assert len(figure.axes[0].get_xticks()) == len(budgets)


def test_compute_axis():
    figure = plots.accuracy_by_compute([curve([3e14, 5e14, 2e15], [0.2, 0.4, 0.6])], "countdown")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xdata().tolist() == [3e14, 5e14, 2e15]
    assert axes.lines[1].get_ydata() == pytest.approx([0.15, 0.25])  # the interval of the first point
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5×10¹⁴", "10¹⁵", "2×10¹⁵"]


@pytest.mark.parametrize(("low", "high"), [(1e9, 1e21), (3e14, 8e14), (1.01e14, 1.02e14), (2e12, 2e12), (9e5, 1.1e6)])
def test_compute_ticks_are_few_and_on_the_axis(low, high):
    ticks = plots.flops_ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert low * 0.999 <= ticks[0] <= ticks[-1] <= high * 1.001


@pytest.mark.parametrize(
    ("value", "text"), [(1e14, "10¹⁴"), (2.04e14, "2×10¹⁴"), (3.46e9, "3.5×10⁹"), (9.99e9, "10¹⁰"), (1.0, "10⁰")]
)
def test_numbers_as_powers_of_ten(value, text):
    assert plots.scientific(value) == text


def test_running_mean():
    values = np.array([1.0, 3.0, 5.0, math.nan, 7.0])
    assert plots.running_mean(values, 2).tolist() == [1.0, 2.0, 4.0, 5.0, 7.0]
    assert plots.running_mean(values[:3], 1).tolist() == [1.0, 3.0, 5.0]


def test_long_courses_are_smoothed():
    noisy = curve(range(100), [0.5 + 0.4 * (-1) ** i for i in range(100)])
    raw, smooth = plots.course([noisy], "Reward", "mean score").axes[0].lines
    assert np.ptp(raw.get_ydata()) == pytest.approx(0.8)
    assert np.ptp(smooth.get_ydata()[10:]) < 0.2
    assert raw.get_alpha() == 0.35


def test_svg_follows_the_page():
    def draw():
        return plots.svg(plots.accuracy_by_budget([curve([0, 16, 32], [0.1, 0.4, 0.5])], "<countdown> & $x"), "p7")

    svg = draw()
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"]
    assert "width" not in root.attrib
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert all(id.startswith("p7-") for id in ids)
    assert all(colour not in svg for colour in plots.VARIABLES)
    assert "var(--ink)" in svg
    assert "var(--c0)" in svg
    assert "DejaVu" not in svg
    assert "&lt;countdown&gt; &amp; $x" in svg
    assert svg == draw()


def test_drawing_changes_no_setting_of_matplotlib():
    before = dict(mpl.rcParams)
    figure = plots.thought_by_level([curve([1, 2, 3], [10, 20, 30])], "countdown")
    plots.svg(figure, "p1")
    assert plots.png(figure).startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


def test_fits_are_drawn_to_the_course_of_training():
    measured, fit = curve([1e14, 2e14], [0.2, 0.4]), curve([1e14, 1.5e14, 2e14], [0.2, 0.31, 0.39])
    (axes,) = plots.accuracy_by_compute([measured], "countdown", fits=[fit]).axes
    dotted = [line for line in axes.lines if line.get_xdata().tolist() == [1e14, 1.5e14, 2e14]]
    assert [line.get_ydata().tolist() for line in dotted] == [[0.2, 0.31, 0.39]]
    assert dotted[0].get_color() == axes.lines[0].get_color()


def test_tokens_stand_on_a_logarithmic_axis_with_bands():
    curves = [
        curve([20, 80, 300], [0.2, 0.4, 0.6], "one"),
        curve([80, 160, 5000], [0.4, 0.5, 0.7], "several", colour=1),
    ]
    figure = plots.accuracy_by_tokens(curves, "countdown")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "32", "128", "512", "2,048", "8,192"]
    assert legend(figure) == ["one", "several"]
    band = axes.collections[1].get_paths()[0].get_extents()
    assert (band.x0, band.x1) == pytest.approx((80, 5000))
    assert (band.y0, band.y1) == pytest.approx((0.35, 0.75))


def test_a_long_name_takes_more_rows_of_the_legend():
    def drawn(name):
        return plots.accuracy_by_level([Curve(name=name, points=(Point(x=1, value=0.5),))], "letters")

    short, long = drawn("rl"), drawn("a run with a long name " * 6)
    (text,) = long.legends[0].get_texts()
    assert max(map(len, text.get_text().split("\n"))) <= 48
    assert long.get_figheight() == pytest.approx(short.get_figheight() + plots.LEGEND_ROW)
