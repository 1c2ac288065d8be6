"""Trials: a judge tried on data sets, with records that can be continued, and reports."""
