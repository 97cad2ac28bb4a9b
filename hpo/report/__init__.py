"""A study's trials as tables, figures and one page, rebuilt from Optuna's storage alone at any time.

Knows neither torch, transformers nor MLflow; the study may still be running.
"""

from hpo.report.page import ReportFiles, write_report
from hpo.report.tables import Savings, best_trial, leaderboard, pruning_savings, trials_table

__all__ = [
    "ReportFiles",
    "Savings",
    "best_trial",
    "leaderboard",
    "pruning_savings",
    "trials_table",
    "write_report",
]
