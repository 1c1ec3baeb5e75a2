"""Views of MLflow's page of runs, saved with the experiment: which runs, sorted by what, in which columns and charts.

MLflow's UI reads a saved view from a tag of the experiment, in the form in which its *Views* menu writes one. A view
changes nothing for anybody who does not open it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlencode

THIS_RUN, THIS_EXPERIMENT, THIS_VIEW = "@this-run@", "@this-experiment@", "@this-view@"
"""Stand in tags and views for MLflow's ids of the run and its experiment, which are known once a server has the run,
and for a link to the view that was saved under the run's id."""
VIEW_TAG = "mlflow.sharedViewState."
"""Followed by a view's key: the tag of an experiment that holds the view."""
RUN_TAG = "distill.run"
"""Name of a run of `distill` in its store; on no other run, so that a view can leave stages out."""
GROUP_TAG = "distill.group"
"""Name of the call that ran several recipes; on the run of each of them."""
ORDER_TAG = "distill.order"
"""Position of a row in the run's table."""
RUNS_VIEW = "distill-runs"
"""Key of the view of whole runs."""
CHILDREN = f"tags.mlflow.parentRunId = '{THIS_RUN}'"
"""MLflow's search expression for the runs below one run."""
_OTHER_SECTIONS = ("eval", "served", "ship", "system", "train")


def comparison(runs: str, metrics: Sequence[str], title: str) -> str:
    """State of the page that shows runs side by side in the order of their table, with a bar chart for each metric.

    Args:
        runs: MLflow's search expression.
        metrics: the metrics, in order.
        title: title of the charts.
    """
    charts = [
        {
            "type": "BAR",
            "uuid": metric,
            "metricSectionId": "distill",
            "metricKey": metric,
            "runsCountToCompare": 20,
            "deleted": False,
            "isGenerated": False,
        }
        for metric in metrics
    ]
    section = {"uuid": "distill", "name": title, "display": True, "isReordered": True, "columns": 2, "cardHeight": 330}
    # MLflow adds a chart for every other metric, to a section of that name: closed, below ours.
    others = [
        {"uuid": name, "name": name, "display": False, "isReordered": False, "isGenerated": True}
        for name in _OTHER_SECTIONS
    ]
    return json.dumps(
        {
            "searchFilter": runs,
            # Sorted by time, MLflow would fold the runs into their parent.
            "orderByKey": f"tags.`{ORDER_TAG}`",
            "orderByAsc": True,
            "runsHiddenMode": "SHOW_ALL",
            "selectedColumns": [f"metrics.`{metric}`" for metric in metrics],
            "compareRunCharts": charts,
            "compareRunSections": [section, *others],
            "isAccordionReordered": True,
        }
    )


def runs_view() -> str:
    """The view `distill: runs` of the *Views* menu: whole runs with the scores of student and teacher."""
    columns = ("student", "teacher", "hard_labels", "retained_above_chance")
    state = {
        "searchFilter": f"tags.`{RUN_TAG}` LIKE '%'",
        "selectedColumns": [
            *(f"metrics.`result/{name}`" for name in columns),
            "params.`task`",
            "params.`student`",
            "params.`teacher`",
        ],
    }
    return json.dumps({"name": "distill: runs", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def view_address(server: str, experiment: str, key: str) -> str:
    """Address of the page that opens a saved view of an experiment with its charts.

    Args:
        server: address of the UI, such as `http://127.0.0.1:5000`; empty for a link within the UI.
        experiment: MLflow's id of the experiment.
        key: key of the view.
    """
    query = urlencode({"viewStateShareKey": key, "compareRunsMode": "CHART", "workflowType": "machine_learning"})
    return f"{server.rstrip('/')}{'/' if server else ''}#/experiments/{experiment}/runs?{query}"
