"""The plots of a report, each drawn from the counts, shares and means of bins, never from a list of rows."""

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

CURRENT, REFERENCE, OTHER, GAP = "#2457a6", "#b3b9c4", "#8a6d1f", "#d9480f"
INK, GRID = "#2b2f36", "#e6e8ec"
TOOLS = ["zoom", "pan", "select", "lasso2d", "zoomIn", "zoomOut", "autoScale", "resetScale", "toImage", "logo"]
"""The buttons that plotly lays over a plot, above all over its legend."""


def reliability_figure(bins: pd.DataFrame) -> go.Figure:
    """Observed against predicted error rate, one point a bin of `weighing.reliability`, above the counts.

    A point on the diagonal is calibrated. Bars are 95 % intervals, a larger point counts more answers.
    """
    n, observed = bins["n"].to_numpy(float), bins["error_rate"].to_numpy(float)
    low, high = bins["error_low"].to_numpy(float), bins["error_high"].to_numpy(float)
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


def over_time_figure(table: pd.DataFrame) -> go.Figure:
    """Mean risk as a line, observed errors as points with 95 % intervals, over periods of `timeline`, above counts."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.78, 0.22], vertical_spacing=0.06)
    sides = list(dict.fromkeys(table["side"]))
    for side, colour in zip(sides, ([CURRENT] if len(sides) == 1 else [OTHER, CURRENT]), strict=True):
        part = table[table["side"] == side]
        error = part[part["error_rate"].notna()]
        days = part["start"].astype(str)
        figure.add_trace(go.Scatter(
            x=days, y=part["mean_risk"], mode="lines+markers", name=f"predicted, {side}",
            line={"color": colour, "width": 2, "dash": "dot"}, marker={"size": 5},
            hovertemplate="%{x}: %{y:.1%} predicted<extra></extra>",
        ), row=1, col=1)
        figure.add_trace(go.Scatter(
            x=error["start"].astype(str), y=error["error_rate"], mode="markers", name=f"observed, {side}",
            marker={"color": colour, "size": 9, "line": {"color": "white", "width": 1}},
            error_y={"array": error["error_high"] - error["error_rate"],
                     "arrayminus": error["error_rate"] - error["error_low"], "color": colour, "thickness": 1.4},
            customdata=error["labelled"], hovertemplate="%{x}: %{y:.1%} of %{customdata:,} were wrong<extra></extra>",
        ), row=1, col=1)
        figure.add_trace(go.Bar(
            x=days, y=part["n"], marker={"color": colour}, opacity=0.6, showlegend=False,
            hovertemplate="%{x}: %{y:,} answers<extra></extra>",
        ), row=2, col=1)
    top = float(np.nanmax([table["mean_risk"].max(), table["error_high"].max(), 0.05]))
    figure.update_yaxes(tickformat=".0%", range=[0, min(top * 1.08, 1.02)], title="wrong", row=1, col=1)
    figure.update_yaxes(title="answers", nticks=3, rangemode="tozero", row=2, col=1)
    figure.update_xaxes(type="category" if len(table) < 3 else "date")
    figure.update_layout(barmode="overlay")
    return styled(figure)


def paired_bars(shares: pd.DataFrame, sides: tuple[str, str]) -> go.Figure:
    """Shares of each place, reference and current side by side, the reference in grey."""
    figure = go.Figure([
        go.Bar(x=shares["place"].astype(str), y=shares[column], name=name, marker={"color": colour},
               hovertemplate="%{x}: %{y:.1%}<extra>" + name + "</extra>")
        for column, name, colour in (("reference", sides[0], REFERENCE), ("current", sides[1], CURRENT))
    ])
    figure.update_layout(barmode="group", bargap=0.15, bargroupgap=0.02)
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return styled(figure)


def styled(figure: go.Figure) -> go.Figure:
    """One look for all: white, few lines, no toolbar, and the legend above, left, where nothing covers it."""
    figure.update_layout(
        plot_bgcolor="white", paper_bgcolor="white", font={"color": INK, "size": 13},
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        modebar={"remove": TOOLS}, dragmode=False,
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=REFERENCE, automargin=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure
