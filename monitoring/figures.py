"""The plots of a report, each drawn from the counts, shares and means of bins, never from a list of rows."""

from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from training.calibration import wilson

CURRENT, REFERENCE, GAP = "#2457a6", "#b3b9c4", "#d9480f"
INK, GRID = "#2b2f36", "#e6e8ec"
BARS = 20
CATEGORIES = 12


def reliability_figure(bins: pd.DataFrame) -> go.Figure:
    """Observed against predicted error rate, one point a bin of `reliability`, above the counts.

    A point on the diagonal is calibrated. Bars are 95 % Wilson intervals, a larger point counts more answers.
    """
    n, observed = bins["n"].to_numpy(float), bins["error_rate"].to_numpy(float)
    low, high = wilson(observed, n)
    sizes = 9 + 19 * np.sqrt(n / n.max())
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.78, 0.22], vertical_spacing=0.05)
    figure.add_trace(go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="calibrated: as predicted",
        line={"color": REFERENCE, "width": 2, "dash": "dash"}, hoverinfo="skip",
    ), row=1, col=1)
    for predicted, found in zip(bins["mean_risk"], observed, strict=True):
        figure.add_trace(go.Scatter(
            x=[predicted, predicted], y=[predicted, found], mode="lines", showlegend=False,
            line={"color": GAP, "width": 3}, opacity=0.55, hoverinfo="skip",
        ), row=1, col=1)
    figure.add_trace(go.Scatter(
        x=bins["mean_risk"], y=observed, mode="markers", name="observed, with 95 % interval",
        marker={"color": CURRENT, "size": sizes, "line": {"color": "white", "width": 1.5}},
        error_y={"array": high - observed, "arrayminus": observed - low, "color": CURRENT, "thickness": 1.6},
        customdata=n, hovertemplate="predicted %{x:.1%}<br>observed %{y:.1%}<br>%{customdata:,} answers",
    ), row=1, col=1)
    figure.add_trace(go.Bar(
        x=(bins["low"] + bins["high"]) / 2, y=n, width=0.094, marker={"color": CURRENT}, opacity=0.85,
        text=[f"{count:,.0f}" for count in n], textposition="outside", cliponaxis=False,
        showlegend=False, hovertemplate="%{y:,} answers",
    ), row=2, col=1)
    axis = {"range": [-0.02, 1.02], "tickformat": ".0%", "dtick": 0.2}
    figure.update_xaxes(**axis)
    figure.update_xaxes(title="predicted: mean risk in the bin", row=2, col=1)
    figure.update_yaxes(**axis | {"range": [-0.06, 1.07]}, title="observed: share that was wrong", row=1, col=1)
    figure.update_yaxes(title="answers", range=[0, n.max() * 1.35], nticks=3, row=2, col=1)
    return styled(figure)


def numbers_figure(reference: pd.Series, current: pd.Series, unit: bool) -> go.Figure:
    """Shares of reference and current in the same bins; unit: values lie in [0, 1]."""
    values = pd.concat([reference, current])
    ends = (0.0, 1.0) if unit else (float(values.min()), float(values.max()))
    edges = np.histogram_bin_edges(values, BARS, range=ends)
    if not unit and (values % 1 == 0).all() and ends[1] - ends[0] < BARS:  # whole numbers: a bar each
        edges = np.arange(ends[0] - 0.5, ends[1] + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    traces = [(name, np.histogram(column, edges)[0] / len(column)) for name, column in
              (("reference", reference), ("current", current))]
    return paired_bars(middles, dict(traces))


def categories_figure(table: pd.DataFrame) -> go.Figure:
    """Shares of each category, from counts with columns reference and current; rare ones are put together."""
    order = (table / table.sum()).sum(axis=1).sort_values(ascending=False, kind="stable").index
    kept = table.loc[order[:CATEGORIES]]
    rest = table.loc[order[CATEGORIES:]]
    if len(rest):
        kept = pd.concat([kept, rest.sum().to_frame(f"{len(rest)} others").T])
    names = [str(name)[:28] for name in kept.index]
    return paired_bars(names, {name: (kept[name] / table[name].sum()).tolist() for name in table.columns})


def paired_bars(places: Any, shares: dict[str, Any]) -> go.Figure:
    """Bars side by side, the reference in grey."""
    figure = go.Figure([
        go.Bar(x=places, y=shares[name], name=name, marker={"color": colour},
               hovertemplate="%{x}: %{y:.1%}<extra>" + name + "</extra>")
        for name, colour in (("reference", REFERENCE), ("current", CURRENT))
    ])
    figure.update_layout(barmode="group", bargap=0.15, bargroupgap=0.02)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return styled(figure)


def styled(figure: go.Figure) -> go.Figure:
    """One look for all: white, few lines, the legend above."""
    figure.update_layout(
        plot_bgcolor="white", paper_bgcolor="white", font={"color": INK, "size": 13},
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=REFERENCE)
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure
